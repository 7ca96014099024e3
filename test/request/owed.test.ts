import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { Owed } from '../../src/request/owed.ts'

const clock = Date.now
const now = performance.now.bind(performance)

/** So much time passes, and meanwhile the clock is put back by an hour. */
function pass(t: Test, milliseconds: number): void {
  t.intercept(Date, 'now', { value: () => clock() + milliseconds - 3_600_000 })
  t.intercept(performance, 'now', { value: () => now() + milliseconds })
}

/** A write that never goes through: what has become of it. */
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

t.test('a close waits ten seconds for what is owed, also where the clock is put back', async t => {
  const owed = new Owed()
  const write = await owing(owed, new Error('no answer'))
  const closing = owed.close()
  await sleep(300)
  t.notOk(write.isDropped)
  pass(t, 10_000)
  t.equal(await Promise.race([closing, sleep(2_000, 'waits')]), undefined)
  t.ok(write.isDropped)
})

t.test('a close takes no longer where much is owed', async t => {
  const owed = new Owed()
  const writes = await Promise.all(Array.from({ length: 300 }, () => owing(owed, new Error('no answer'), 50)))
  const closing = owed.close()
  pass(t, 10_000)
  t.equal(await Promise.race([closing, sleep(2_000, 'waits')]), undefined)
  t.ok(writes.every(({ isDropped }) => isDropped))
  t.equal(owed.size, 0)
})

t.test('what a counter refuses is dropped after a quarter of an hour, also where the clock is put back', async t => {
  const owed = new Owed()
  const write = await owing(owed, Object.assign(new Error('refused'), { code: '23514' }))
  await sleep(300)
  t.notOk(write.isDropped)
  pass(t, 15 * 60_000)
  await sleep(1_500)
  t.ok(write.isDropped)
  t.equal(owed.size, 0)
  await owed.close()
})
