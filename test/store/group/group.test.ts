import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { AGAIN, Group } from '../../../src/store/group/group.ts'
import { lateAnswerTo, NOT_SENT } from '../../../src/store/late-answer.ts'

interface Item {
  userId: string
  n: number
}

/** A group whose statements the test answers by hand. */
function byHand({
  size = 100,
  spareAfterMs,
  part = () => size,
  giving = ({ n }) => (n < 0 ? undefined : n * 10),
  answer = (_, given) => given
}: {
  size?: number
  spareAfterMs?: number
  part?: () => number
  giving?: (item: Item) => number | undefined | typeof AGAIN
  answer?: (item: Item, given: number | undefined) => number | undefined | Promise<number>
} = {}) {
  const sent: { items: number[]; isSpare: boolean; answer: (error?: Error) => Promise<void> }[] = []
  let idle = 0
  const group = new Group<Item, number | undefined, number | undefined>(
    (items, isSpare) =>
      new Promise((resolve, reject) => {
        const answer = async (error?: Error) => {
          if (error) reject(error)
          else resolve(items.map(giving))
          await turn()
          await turn()
        }
        sent.push({ items: items.map(({ n }) => n), isSpare, answer })
      }),
    {
      size: part,
      answer,
      ...(spareAfterMs === undefined ? {} : { more: { spareAfterMs } }),
      onIdle: () => void idle++
    }
  )
  const join = (n: number, userId = 'alice', patienceMs = 60_000) =>
    group.join({ userId, n }, performance.now() + patienceMs)
  return { sent, join, idle: () => idle, load: () => group.load }
}

t.test('items of one turn of the event loop share a statement, sent at once if none is under way', async t => {
  const { sent, join } = byHand()
  const answers = [1, 2, 3].map(n => join(n))
  await turn()
  t.strictSame(sent[0]!.items, [1, 2, 3])
  await sent[0]!.answer()
  t.strictSame(await Promise.all(answers), [10, 20, 30])
})

t.test('items that arrive while a statement is under way share the next one, in order of arrival', async t => {
  const { sent, join, idle } = byHand()
  join(1)
  await turn()
  const answers = [2, 3].map(n => join(n))
  await turn()
  t.equal(sent.length, 1)
  await sent[0]!.answer()
  t.strictSame(sent[1]!.items, [2, 3])
  t.equal(idle(), 0)
  await sent[1]!.answer()
  t.strictSame(await Promise.all(answers), [20, 30])
  t.equal(idle(), 1, 'onIdle() is called once nothing is left')
})

t.test('a failed statement rejects each of its items, and the next statement is sent all the same', async t => {
  const { sent, join } = byHand()
  const answers = Promise.allSettled([join(1), join(2)])
  await turn()
  const next = join(3)
  await sent[0]!.answer(new Error('no'))
  t.match(await answers, [{ reason: { message: 'no' } }, { reason: { message: 'no' } }])
  await sent[1]!.answer()
  t.equal(await next, 30)
})

t.test('each item gets its own answer, and one whose answer throws fails no other item', async t => {
  const answer = ({ n }: Item, given: number | undefined) => {
    if (n === 2) throw new Error('no')
    return given ?? Promise.resolve(n)
  }
  const { sent, join } = byHand({ answer })
  const answers = Promise.allSettled([join(1), join(2), join(-3), join(4)])
  await turn()
  await sent[0]!.answer()
  t.match(await answers, [{ value: 10 }, { reason: { message: 'no' } }, { value: -3 }, { value: 40 }])
})

t.test('answer() is not called for an item that is past its deadline', async t => {
  const alive = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(alive))
  const asked: number[] = []
  const answer = async ({ n }: Item) => asked.push(n)
  const { sent, join } = byHand({ answer })
  const [late, stays] = [join(1, 'alice', 20), join(2)]
  await turn()
  await t.rejects(late, { code: 'FST_QUOTA_STORE' })
  await sent[0]!.answer()
  await stays
  t.strictSame(asked, [2])
})

t.test('an item past its deadline is rejected, and is not sent if it was still waiting', async t => {
  // Keeps the process alive, as the connection of a statement does.
  const alive = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(alive))
  const { sent, join } = byHand()
  const [first, late, stays] = [join(1, 'alice', 20), join(2, 'alice', 40), join(3)]
  await turn()
  const waiting = join(4, 'alice', 20)
  await t.rejects(first, { code: 'FST_QUOTA_STORE' }, 'under way')
  await t.rejects(waiting, { code: 'FST_QUOTA_STORE' }, 'not sent')
  const answerTo = (given: Promise<unknown>) => given.catch(lateAnswerTo)
  t.equal(await answerTo(waiting), NOT_SENT)
  await t.rejects(late, { code: 'FST_QUOTA_STORE' })
  const next = join(5)
  await sent[0]!.answer()
  t.equal(await stays, 30)
  t.strictSame(await answerTo(first), [10, 20, 30], 'its late answer is still available')
  t.strictSame(sent[1]!.items, [5])
  await sent[1]!.answer()
  t.equal(await next, 50)
})

t.test('an item that arrives later with an earlier deadline is rejected at that deadline', async t => {
  const alive = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(alive))
  const { sent, join } = byHand()
  const first = join(1, 'alice', 3_000)
  await turn()
  await t.rejects(join(2, 'alice', 20), { code: 'FST_QUOTA_STORE' })
  await sent[0]!.answer()
  t.equal(await first, 10)
})

t.test('the next statement is sent before the items of the last one get their answers', async t => {
  let sentBy = () => 0
  const toldAt: number[] = []
  const answer = (_: Item, given: number | undefined) => {
    toldAt.push(sentBy())
    return given
  }
  const { sent, join } = byHand({ answer })
  sentBy = () => sent.length
  join(1)
  await turn()
  join(2)
  await sent[0]!.answer()
  t.strictSame(toldAt, [2])
  await sent[1]!.answer()
})

t.test('a user with many items does not delay users with few, and each user is served in order', async t => {
  const { sent, join } = byHand({ size: 4 })
  join(0)
  await turn()
  for (let n = 1; n <= 6; n++) join(n, 'hot')
  join(7, 'bob')
  join(8, 'carol')
  await sent[0]!.answer()
  t.strictSame(sent[1]!.items, [1, 2, 7, 8])
  await sent[1]!.answer()
  t.strictSame(sent[2]!.items, [3, 4, 5, 6])
  await sent[2]!.answer()
})

t.test('one spare statement is sent beside a slow one, and no third', async t => {
  const alive = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(alive))
  const { sent, join, idle } = byHand({ spareAfterMs: 20 })
  const slow = join(1)
  await turn()
  const second = join(2)
  await turn()
  t.equal(sent.length, 1, 'not before the first is slow')
  while (sent.length < 2) await turn()
  t.strictSame(
    sent.map(({ items, isSpare }) => [items, isSpare]),
    [
      [[1], false],
      [[2], true]
    ]
  )
  const third = join(3)
  await sleep(50)
  t.equal(sent.length, 2)
  await sent[1]!.answer()
  t.equal(await second, 20)
  t.match(sent[2], { items: [3], isSpare: true }, 'takes the place of the spare')
  await sent[0]!.answer()
  t.equal(await slow, 10)
  const fourth = join(4)
  await turn()
  t.match(sent[3], { items: [4], isSpare: false }, 'takes the place of the first')
  await Promise.all([sent[2]!.answer(), sent[3]!.answer()])
  t.strictSame(await Promise.all([third, fourth]), [30, 40])
  t.equal(idle(), 1, 'onIdle() is called once nothing is left')
})

t.test('a second statement follows once as many items wait as the first has, at least ten, and no third', async t => {
  const { sent, join } = byHand({ spareAfterMs: 60_000 })
  const all = Array.from({ length: 12 }, (_, n) => join(n))
  await turn()
  for (let n = 12; n < 23; n++) all.push(join(n))
  await turn()
  t.equal(sent.length, 1, 'fewer than the first')
  all.push(join(23))
  await turn()
  t.match(sent[1], { items: { length: 12 }, isSpare: false })
  for (let n = 24; n < 60; n++) all.push(join(n))
  await turn()
  t.equal(sent.length, 2)
  for (const n of [0, 1, 2]) await sent[n]!.answer()
  t.strictSame(
    await Promise.all(all),
    all.map((_, n) => n * 10)
  )
  const few = [join(1), join(2)]
  await turn()
  few.push(...Array.from({ length: 9 }, (_, n) => join(n)))
  await turn()
  t.equal(sent.length, 4, 'too few to follow')
  await sent[3]!.answer()
  await sent[4]!.answer()
  await Promise.all(few)
})

t.test('what is too much for one part leaves in two, the second behind the first, and the rest after them', async t => {
  const { sent, join, load } = byHand({ spareAfterMs: 60_000, part: () => 15 })
  const all = Array.from({ length: 40 }, (_, n) => join(n))
  t.equal(load(), 40)
  await turn()
  t.match(sent, [{ items: { length: 15 } }, { items: { length: 15 } }])
  t.equal(load(), 40, 'until they are answered')
  await sent[0]!.answer()
  t.equal(load(), 25)
  t.equal(sent.length, 2, 'too few to follow')
  await sent[1]!.answer()
  t.match(sent[2], { items: { length: 10 }, isSpare: false })
  await sent[2]!.answer()
  t.equal(load(), 0)
  t.strictSame(
    await Promise.all(all),
    all.map((_, n) => n * 10)
  )
})

t.test('what was not asked for after all waits again, before what came later, unless it was given up', async t => {
  let isAgain = true
  const { sent, join, idle } = byHand({ giving: ({ n }) => (isAgain && n > 2 ? AGAIN : n * 10) })
  const all = [1, 2, 3, 4].map(n => join(n))
  const late = join(6, 'alice', 20).catch(error => error)
  await turn()
  all.push(join(5))
  await sleep(40)
  const error = await late
  t.ok(lateAnswerTo(error) instanceof Promise, 'as far as it knew, it was asked for')
  await sent[0]!.answer()
  isAgain = false
  t.strictSame(await Promise.all(all.slice(0, 2)), [10, 20])
  t.strictSame(sent[1]!.items, [3, 4, 5])
  await sent[1]!.answer()
  t.strictSame(await Promise.all(all), [10, 20, 30, 40, 50])
  t.equal(sent.length, 2)
  t.equal(idle(), 1)
})
