// Groups whose statements follow each other: who sends when.
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { SLOW_MS } from '../../../src/store/connection/shared-lanes.ts'
import { Group } from '../../../src/store/group/group.ts'
import { Turns } from '../../../src/store/group/turns.ts'

/** A hold and a charge for each request, and something else that is asked now and then; the test answers their statements by hand. */
function byHand(t: Test, { handlerMs }: { handlerMs?: number } = {}) {
  // Keeps the process alive, as the connection of a statement does.
  const alive = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(alive))
  const sent: { name: string; items: number[]; answer: () => Promise<void> }[] = []
  const turns = new Turns()
  const groupOf = (name: string, leadsOn?: true) =>
    new Group<{ userId: string; n: number }, true, true>(
      items =>
        new Promise(resolve => {
          const answer = async () => {
            resolve(items.map(() => true as const))
            for (let i = 0; i < 3; i++) await turn()
          }
          sent.push({ name, items: items.map(({ n }) => n), answer })
        }),
      { size: () => 80, more: { spareAfterMs: SLOW_MS }, turns, answer: () => true, ...(leadsOn && { leadsOn }) }
    )
  const [holds, charges, moves] = [groupOf('hold', true), groupOf('charge'), groupOf('move')] as const
  const others = groupOf('other')
  const join = (group: typeof holds, n: number) => group.join({ userId: `user-${n}`, n }, performance.now() + 60_000)
  const request = async (n: number) => {
    await join(holds, n)
    if (handlerMs !== undefined) await sleep(handlerMs)
    await join(charges, n)
  }
  /** As many requests as there were, so that it is known whether something follows at once. */
  const known = async () => {
    const all = [request(-1), request(-2)]
    await turn()
    await sent[0]!.answer()
    while (sent.length < 2) await sleep(1)
    await sent[1]!.answer()
    await Promise.all(all)
    sent.length = 0
  }
  const names = () => sent.map(({ name, items }) => [name, ...items])
  return { sent, names, request, known, join, holds, charges, moves, others }
}

t.test('where handlers answer at once, requests that are apart come together', async t => {
  const { sent, names, request, known } = byHand(t)
  await known()
  const all = [request(1)]
  await turn()
  all.push(request(2))
  await turn()
  t.strictSame(names(), [['hold', 1]])
  await sent[0]!.answer()
  t.strictSame(names(), [
    ['hold', 1],
    ['hold', 2]
  ])
  await sent[1]!.answer()
  t.strictSame(names().slice(2), [['charge', 1, 2]], 'in one statement')
  all.push(request(3))
  await turn()
  t.equal(sent.length, 3, 'it waits for its turn')
  await sent[2]!.answer()
  t.strictSame(names().slice(3), [['hold', 3]])
  await sent[3]!.answer()
  await sent[4]!.answer()
  await Promise.all(all)
})

t.test('where handlers take some time, nobody waits for another kind', async t => {
  const { sent, names, request, known } = byHand(t, { handlerMs: 5 })
  await known()
  const first = request(1)
  await turn()
  await sent[0]!.answer()
  const second = request(2)
  await turn()
  await sleep(20)
  await turn()
  t.strictSame(names(), [
    ['hold', 1],
    ['hold', 2],
    ['charge', 1]
  ])
  for (const { answer } of sent) await answer()
  while (sent.length < 4) await sleep(1)
  await sent[3]!.answer()
  await Promise.all([first, second])
})

t.test('with many under way, nobody waits for another kind', async t => {
  const { names, known, join, holds, charges } = byHand(t)
  await known()
  for (let n = 0; n < 20; n++) void join(holds, n)
  await turn()
  void join(charges, 20)
  await turn()
  t.strictSame(
    names().map(([name]) => name),
    ['hold', 'charge']
  )
})

t.test('what takes long holds up nobody, nor does what comes after it', async t => {
  const { sent, names, known, join, holds, charges } = byHand(t)
  await known()
  void join(holds, 1)
  await turn()
  void join(charges, 2)
  await turn()
  t.strictSame(names(), [['hold', 1]])
  while (sent.length < 2) await sleep(1)
  t.strictSame(names()[1], ['charge', 2], 'sent while the first is still under way')
  await sent[0]!.answer()
  void join(holds, 3)
  await turn()
  t.strictSame(names()[2], ['hold', 3], 'and for some time nobody waits for another kind')
})

t.test('one that waits while more of another kind keep coming has its turn before long', async t => {
  const { sent, names, known, join, charges, moves, others } = byHand(t)
  await known()
  let n = 0
  const come = (group: typeof moves, count: number) => {
    for (let i = 0; i < count; i++) void join(group, n++)
  }
  come(charges, 5)
  await turn()
  come(moves, 5)
  void join(others, 1_000)
  for (let i = 0; i < 6; i++) {
    const { name, answer } = sent.at(-1)!
    come(name === 'charge' ? charges : moves, 4)
    await answer()
  }
  t.ok(
    names().some(([name]) => name === 'other'),
    JSON.stringify(names())
  )
})

t.test('of two kinds, the one of whom more wait is next', async t => {
  const { sent, names, request, known, join, holds, moves } = byHand(t)
  await known()
  const all = [request(1), request(2)]
  await turn()
  all.push(request(3))
  await turn()
  await sent[0]!.answer()
  t.strictSame(names()[1], ['charge', 1, 2])
  void join(moves, 4)
  void join(holds, 5)
  await turn()
  await sent[1]!.answer()
  t.strictSame(names().slice(2), [['hold', 3, 5]])
})

t.test('a kind follows its own statement once enough wait', async t => {
  const { names, known, join, charges } = byHand(t)
  await known()
  void join(charges, 0)
  await turn()
  for (let n = 1; n <= 10; n++) void join(charges, n)
  await turn()
  t.strictSame(names(), [
    ['charge', 0],
    ['charge', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
  ])
})

t.test('one that finds another kind sent in the same turn does not wait for it forever', async t => {
  const { sent, names, known, join, charges, moves } = byHand(t)
  await known()
  void join(charges, 1)
  void join(moves, 2)
  await turn()
  t.strictSame(names(), [['charge', 1]])
  while (sent.length < 2) await sleep(1)
  t.strictSame(names()[1], ['move', 2])
})

t.test('of as many, those of the kind that has just gone are next', async t => {
  const { sent, names, known, join, holds, charges } = byHand(t)
  await known()
  void join(charges, 1)
  await turn()
  void join(holds, 2)
  void join(charges, 3)
  await turn()
  await sent[0]!.answer()
  t.strictSame(names(), [
    ['charge', 1],
    ['charge', 3]
  ])
})

t.test('a kind that goes alone sends what came meanwhile before it answers', async t => {
  const { sent, known, join, others } = byHand(t)
  await known()
  let answered: Promise<unknown> = Promise.resolve()
  for (let n = 0; n < 5; n++) {
    const one = join(others, n)
    await turn()
    const before = sent.length
    void join(others, n + 100)
    let isSentFirst: boolean | undefined
    answered = one.then(() => {
      isSentFirst = sent.length > before
    })
    await sent.at(-1)!.answer()
    await answered
    if (n === 4) t.ok(isSentFirst)
    await sent.at(-1)!.answer()
  }
})
