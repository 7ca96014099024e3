import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { Owed } from '../../src/request/owed.ts'

const clock = Date.now
const now = performance.now.bind(performance)

/** Lets this much time pass, while the wall clock is set back by an hour. */
function pass(t: Test, milliseconds: number): void {
  t.intercept(Date, 'now', { value: () => clock() + milliseconds - 3_600_000 })
  t.intercept(performance, 'now', { value: () => now() + milliseconds })
}

/** A write that never succeeds; returns whether it was dropped. */
async function owing(owed: Owed, error: Error, attemptMs = 0): Promise<{ isDropped: boolean }> {
  const write = { isDropped: false }
  await owed.attempt(Promise.reject(error), {
    again: () => sleep(attemptMs).then(() => Promise.reject(error)),
    written: () => {},
    owed: () => {},
    dropped: () => {
      write.isDropped = true
    }
  })
  return write
}

t.test('a close waits ten seconds for owed writes, even if the clock is set back', async t => {
  const owed = new Owed()
  const write = await owing(owed, new Error('no answer'))
  const closing = owed.close()
  pass(t, 9_000)
  await sleep(300)
  t.notOk(write.isDropped)
  pass(t, 10_000)
  t.equal(await Promise.race([closing, sleep(2_000, 'waits')]), undefined)
  t.ok(write.isDropped)
})

t.test('a close takes no longer when many writes are owed', async t => {
  const owed = new Owed()
  const writes = await Promise.all(Array.from({ length: 300 }, () => owing(owed, new Error('no answer'), 50)))
  const closing = owed.close()
  pass(t, 10_000)
  t.equal(await Promise.race([closing, sleep(2_000, 'waits')]), undefined)
  t.ok(writes.every(({ isDropped }) => isDropped))
  t.equal(owed.size, 0)
})

t.test(
  'a write that a constraint refuses is dropped after a quarter of an hour, even if the clock is set back',
  async t => {
    const owed = new Owed()
    const write = await owing(owed, Object.assign(new Error('refused'), { code: '23514' }))
    pass(t, 14.9 * 60_000)
    await sleep(300)
    t.notOk(write.isDropped)
    pass(t, 15 * 60_000)
    await sleep(1_500)
    t.ok(write.isDropped)
    t.equal(owed.size, 0)
    await owed.close()
  }
)

/** Owes writes to a store that answers as the test says, and records every attempt at them. */
function writes(owed: Owed) {
  const attempts: string[] = []
  const dropped: string[] = []
  const over: Promise<void>[] = []
  const rounds: { size: number; amongMany: boolean }[] = []
  let running = 0
  const owe = (name: string, answers: unknown[], first: unknown = new Error('no answer')) =>
    owed.attempt(Promise.reject(first), {
      again: async amongMany => {
        attempts.push(name)
        if (++running === 1) rounds.push({ size: 0, amongMany })
        rounds.at(-1)!.size += 1
        await turn()
        running -= 1
        if (answers.length > 0) throw answers.shift()
      },
      written: () => t.fail('the first attempt must fail'),
      owed: (_, until) => void over.push(until),
      dropped: () => void dropped.push(name)
    })
  return { attempts, dropped, rounds: () => rounds, owe, allOver: () => Promise.all(over) }
}

/** Keeps the process alive as the sockets of a server do: owed writes do not. */
t.beforeEach(t => {
  const alive = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(alive))
})

const NO = new Error('no answer')
const refusedBy = (code: string) => Object.assign(new Error('refused'), { code })

t.test('retries owed writes oldest first, and puts those that fail behind the others', async t => {
  const owed = new Owed()
  const { attempts, owe, allOver } = writes(owed)
  for (const name of ['a', 'b', 'c', 'd', 'e', 'f', 'g']) await owe(name, name < 'd' ? [NO] : [])
  t.equal(owed.size, 7)
  await allOver()
  t.equal(attempts.join(''), 'abcdefgabc')
  t.equal(owed.size, 0)
})

t.test(
  'retries three at once, and twice as many after all were written, up to as many as share a statement',
  async t => {
    for (const [sharing, expected] of [
      // One of the first three fails, and one of the last eighty.
      [80, [3, 3, 6, 12, 24, 48, 80, 80, 80, 3, 6, 12, 24, 21]],
      [1, Array(134).fill(3)]
    ] as const) {
      const owed = new Owed(sharing)
      const { rounds, owe, allOver } = writes(owed)
      for (let i = 0; i < 400; i++) await owe(`${i}`, i === 2 || i === 300 ? [NO] : [])
      await allOver()
      t.strictSame(
        rounds(),
        expected.map(size => ({ size, amongMany: size > 3 }))
      )
    }
  }
)

t.test('writes what is owed in a second outage, after everything owed in the first was written', async t => {
  const owed = new Owed()
  for (const name of ['an outage', 'the next one']) {
    const { attempts, owe, allOver } = writes(owed)
    await owe(name, [])
    t.equal(await Promise.race([allOver().then(() => 'over'), sleep(5_000, 'waits')]), 'over')
    t.strictSame(attempts, [name])
  }
})

t.test('pauses longer after each failed attempt', async t => {
  const owed = new Owed()
  const attempts: number[] = []
  let over: Promise<void> | undefined
  await owed.attempt(Promise.reject(NO), {
    again: async () => {
      attempts.push(performance.now())
      if (attempts.length < 4) throw NO
    },
    written: () => {},
    owed: (_, until) => {
      over = until
    },
    dropped: () => {}
  })
  await over
  const [first, second, third, fourth] = attempts as [number, number, number, number]
  // At least three quarters of 200, 400 and 800 ms, less what a timer may fire early.
  t.ok(second - first > 140 && third - second > 290 && fourth - third > 590)
})

t.test('pauses again where the store fails once more after it has taken some of what is owed', async t => {
  const { attempts, owe, allOver } = writes(new Owed())
  for (const name of ['a', 'b', 'c']) await owe(name, [])
  await owe('d', [NO, NO])
  while (!attempts.includes('d')) await turn()
  const since = performance.now()
  await allOver()
  t.strictSame(attempts, ['a', 'b', 'c', 'd', 'd', 'd'])
  // At least three quarters of 100 and 200 ms, less what a timer may fire early.
  t.ok(performance.now() - since > 200)
})

t.test('retries a write that was rejected with undefined', async t => {
  const { attempts, owe, allOver } = writes(new Owed())
  await owe('a', [undefined])
  await allOver()
  t.strictSame(attempts, ['a', 'a'])
})

t.test('a close cuts short the pause before each further attempt', async t => {
  const owed = new Owed()
  const { attempts, owe } = writes(owed)
  await owe('a', [NO, NO, NO, NO, NO, NO])
  while (attempts.length < 4) await sleep(10)
  // The next pauses would be three quarters of 1.6, 3.2 and 5 s, at least.
  t.equal(await Promise.race([owed.close(), sleep(2_000, 'waits')]), undefined)
})

t.test('during a close, owed writes keep the process alive, and are not tried again without a pause', async t => {
  const owed = new Owed()
  const { attempts, owe } = writes(owed)
  await owe('a', Array(1_000).fill(NO))
  const timers = () => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  const closing = owed.close()
  for (let i = 0; i < 30 && timers() === before; i++) await sleep(10)
  t.equal(timers(), before + 1)
  t.ok(attempts.length < 100, `${attempts.length} attempts`)
  pass(t, 10_000)
  await closing
})

t.test('a write that a close drops is told why its last attempt failed', async t => {
  const owed = new Owed()
  const last = new Error('still no answer')
  let tried = () => {}
  const isTried = new Promise<void>(resolve => {
    tried = resolve
  })
  const dropped = new Promise(resolve => {
    void owed.attempt(Promise.reject(NO), {
      again: () => {
        tried()
        return Promise.reject(last)
      },
      written: () => {},
      owed: () => {},
      dropped: resolve
    })
  })
  await isTried
  await turn()
  const closing = owed.close()
  pass(t, 10_000)
  t.equal(await dropped, last)
  await closing
})

t.test('drops a write that can never succeed as soon as that is known, and a close does not wait for it', async t => {
  for (const code of ['23502', '23503', '22003']) {
    const owed = new Owed()
    const { attempts, dropped, owe, allOver } = writes(owed)
    await owe('at once', [], refusedBy(code))
    t.strictSame([dropped, attempts, owed.size], [['at once'], [], 0], code)
    await owe('later', [refusedBy(code)])
    await allOver()
    t.strictSame([dropped, attempts, owed.size], [['at once', 'later'], ['later'], 0], code)
    t.equal(await Promise.race([owed.close(), sleep(5_000, 'waits')]), undefined)
  }
})

t.test('is full with 10 000 owed writes, and not before', async t => {
  const owed = new Owed()
  const { owe } = writes(owed)
  for (let n = 0; n < 9_999; n++) void owe(String(n), [])
  await turn()
  t.notOk(owed.isFull)
  await owe('one more', [])
  t.ok(owed.isFull)
})
