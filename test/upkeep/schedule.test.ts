import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { every } from '../../src/upkeep/schedule.ts'
import { until } from '../fixtures/ledger.ts'

const HOUR_MS = 3_600_000
const fail = (error: unknown) => t.fail(String(error))

t.test('takes turn after turn, never two at once, and reports a turn that fails', async t => {
  let running = 0
  let most = 0
  let turns = 0
  const told: unknown[] = []
  const schedule = every(
    1,
    async () => {
      most = Math.max(most, ++running)
      await sleep(10)
      running -= 1
      if (++turns === 2) throw new Error('the second')
    },
    error => told.push(error)
  )
  await until('four turns', 5_000, async () => turns >= 4)
  await schedule.stop()
  t.equal(most, 1)
  t.match(told, [{ message: 'the second' }])
})

t.test('the first turn can have a delay of its own', async t => {
  let turns = 0
  const soon = every(HOUR_MS, async () => turns++, fail, 1)
  const late = every(HOUR_MS, async () => fail('an hour has not passed'), fail)
  await until('a turn', 5_000, async () => turns === 1)
  await sleep(20)
  t.equal(turns, 1)
  await Promise.all([soon.stop(), late.stop()])
})

t.test('stopping ends a pause at once, and signals and waits for a turn that is running', async t => {
  const resting = every(HOUR_MS, async () => fail('it was stopped'), fail)
  t.equal(await Promise.race([resting.stop(), sleep(5_000, 'waits')]), undefined)
  let state = 'not begun'
  const working = every(
    1,
    async stopping => {
      state = 'runs'
      while (!stopping.aborted) await sleep(1)
      await sleep(20)
      state = 'ended'
    },
    fail
  )
  await until('it runs', 5_000, async () => state === 'runs')
  await working.stop()
  t.equal(state, 'ended')
  await sleep(20)
  t.equal(state, 'ended', 'and there is no other turn')
})
