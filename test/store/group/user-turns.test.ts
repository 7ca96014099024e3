import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { UserTurns } from '../../../src/store/group/user-turns.ts'

/** Keeps the process alive, which the timer of a waiting turn does not. */
const meanwhile = <T>(waiting: T): Promise<T> => sleep(200).then(() => waiting)

const later = (patienceMs = 60_000): number => performance.now() + patienceMs

/** Work that the test ends by hand. */
function work() {
  const begun: string[] = []
  const ends = new Map<string, (error?: Error) => void>()
  const doing = (name: string) => () =>
    new Promise<string>((resolve, reject) => {
      begun.push(name)
      ends.set(name, error => (error ? reject(error) : resolve(`${name} done`)))
    })
  const end = async (name: string, error?: Error) => {
    ends.get(name)?.(error)
    for (let i = 0; i < 5; i++) await turn()
  }
  return { begun, doing, end }
}

t.test("a user's work runs one at a time, in order of arrival, alongside that of other users", async t => {
  const turns = new UserTurns()
  const { begun, doing, end } = work()
  const all = [
    turns.run('alice', later(), doing('first')),
    turns.run('alice', later(), doing('second')),
    turns.run('alice', later(), doing('third')),
    turns.run('bob', later(), doing('other'))
  ]
  await turn()
  t.strictSame(begun, ['first', 'other'])
  await end('first')
  t.strictSame(begun, ['first', 'other', 'second'])
  await end('second')
  t.strictSame(begun, ['first', 'other', 'second', 'third'])
  await end('third')
  await end('other')
  t.strictSame(await Promise.all(all), ['first done', 'second done', 'third done', 'other done'])
  const again = turns.run('alice', later(), doing('fourth'))
  await turn()
  await end('fourth')
  t.equal(await again, 'fourth done', 'also when nothing of this user is under way')
})

t.test('work that fails rejects for its own caller, and the next has its turn', async t => {
  const turns = new UserTurns()
  const { begun, doing, end } = work()
  const first = turns.run('alice', later(), doing('first')).catch((error: Error) => error.message)
  const second = turns.run('alice', later(), doing('second'))
  await turn()
  await end('first', new Error('no'))
  t.equal(await first, 'no')
  t.strictSame(begun, ['first', 'second'])
  await end('second')
  t.equal(await second, 'second done')
})

t.test('a turn that does not come by its deadline is rejected, and its work never begins', async t => {
  const turns = new UserTurns()
  const { begun, doing, end } = work()
  const first = turns.run('alice', later(), doing('first'))
  await turn()
  const second = turns.run('alice', later(30), doing('second'))
  const third = turns.run('alice', later(), doing('third'))
  await meanwhile(t.rejects(second, { code: 'FST_QUOTA_STORE' }))
  await end('first')
  t.equal(await first, 'first done')
  t.strictSame(begun, ['first', 'third'])
  await end('third')
  t.equal(await third, 'third done')
})

t.test('work that runs past its deadline is rejected, and the next still waits until it has ended', async t => {
  const turns = new UserTurns()
  const { begun, doing, end } = work()
  await meanwhile(t.rejects(turns.run('alice', later(30), doing('slow')), { code: 'FST_QUOTA_STORE' }))
  const next = turns.run('alice', later(), doing('next'))
  await sleep(20)
  t.strictSame(begun, ['slow'])
  await end('slow')
  t.strictSame(begun, ['slow', 'next'])
  await end('next')
  t.equal(await next, 'next done')
})
