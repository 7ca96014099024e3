import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { charge } from '../../src/store/charge/charge.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { openPeriods } from '../../src/store/charge/open-period.ts'
import { release } from '../../src/store/charge/release.ts'
import { adjustQuota } from '../../src/store/operator/adjust-quota.ts'
import { resetQuota } from '../../src/store/operator/reset-quota.ts'
import {
  type Amounts,
  auditOf,
  BY,
  costing,
  hold,
  logOf,
  periodsOf,
  standing,
  tryHold,
  wanted
} from '../fixtures/charges.ts'
import { crowd, server } from '../fixtures/database.ts'
import { inTransaction } from '../fixtures/in-transaction.ts'
import { violations } from '../fixtures/invariants.ts'
import { deadlocks, untilWaiting } from '../fixtures/lock-waits.ts'

const pg = await server(t)

const database = async (max = 50) => {
  const db = await crowd(await pg.migrated(), max)
  t.teardown(() => db.close())
  return db
}

t.test('fifty requests at a period boundary neither lose nor double a unit, and close the old period once', async t => {
  const db = await database()
  await declareTypes(db, { calls: { limit: 30 }, more: { limit: 100, period: 'day' } })
  const before = new Date('2026-01-31T23:59:59.999Z')
  const boundary = new Date('2026-02-01')
  for (let round = 0; round < 5; round++) {
    const user = `user-${round}`
    const held = await hold(db, user, { calls: 7, more: 1 }, { at: before })
    const outcomes = await Promise.all([
      ...Array.from({ length: 50 }, (_, i) =>
        tryHold(db, user, i % 2 ? { calls: 1, more: 1 } : { more: 1, calls: 1 }, { at: boundary })
      ),
      commit(db, user, costing(held), null)
    ])
    t.equal(outcomes.filter(outcome => 'admitted' in outcome && outcome.admitted).length, 30)
    t.strictSame(await standing(db, user, 'calls', boundary), [0, 30, 0])
    t.match(await periodsOf(db, user, 'calls'), [{ used: 7, reserved: 0, closed: true }, { closed: false }])
    t.equal((await periodsOf(db, user, 'calls')).length, 2)
    t.equal((await periodsOf(db, user, 'more')).length, 2)
  }
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})

t.test('a reservation that waited for a reset belongs to the period that the reset opened', async t => {
  const db = await database(5)
  await declareTypes(db, { calls: { limit: 10 }, more: { limit: 10 } })
  for (const amounts of [{ calls: 3 }, { calls: 3, more: 1 }] as Amounts[]) {
    await hold(db, 'alice', { calls: 2 })
    let waiting: ReturnType<typeof hold> | undefined
    await inTransaction(db, async inside => {
      await resetQuota(inside, 'alice', null, BY)
      waiting = hold(db, 'alice', amounts)
      await untilWaiting(db)
    })
    const held = await waiting!
    const running = (await periodsOf(db, 'alice', 'calls')).at(-1)!
    t.equal(held[0]!.periodStart.toISOString(), running.start)
    t.equal(held[0]!.balance.periodStart.toISOString(), running.start)
    await commit(db, 'alice', costing(held), null)
    t.strictSame(await standing(db, 'alice', 'calls'), [3, 0, 7])
    t.strictSame(await violations(db), [])
  }
})

t.test('a reset and an adjustment that waited for a reservation count it as reserved', async t => {
  const db = await database(5)
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 1 })
  const behind = async <T>(work: () => Promise<T>): Promise<T> => {
    let waiting: Promise<T> | undefined
    await inTransaction(db, async inside => {
      await hold(inside, 'alice', { calls: 2 })
      waiting = work()
      await untilWaiting(db)
    })
    return await waiting!
  }
  t.match(await behind(() => adjustQuota(db, 'alice', 'calls', 20, BY)), { used: 0, reserved: 3, remaining: 17 })
  t.strictSame(await behind(() => resetQuota(db, 'alice', 'calls', BY)), ['calls'])
  const audit = await auditOf(db, 'alice')
  t.match(audit.find(({ action }) => action === 'reset')!, { before: { used: 0, reserved: 5 } })
  t.strictSame(await violations(db), [])
})

t.test('a commit and a release that waited for a rollover go to the old period, a later charge to the new', async t => {
  const db = await database(8)
  await declareTypes(db, { calls: { limit: 10 } })
  const old = new Date('2026-01-31T23:59:59Z')
  const boundary = new Date('2026-02-01')
  const [committed, released] = [
    await hold(db, 'alice', { calls: 2 }, { at: old }),
    await hold(db, 'alice', { calls: 5 }, { at: old })
  ]
  const charges = await wanted(db, { calls: 4 })
  let waiting: Promise<unknown> | undefined
  await inTransaction(db, async inside => {
    await openPeriods(inside, 'alice', boundary)
    waiting = Promise.all([
      commit(db, 'alice', costing(committed), null),
      release(db, 'alice', released),
      openPeriods(db, 'alice', boundary)
    ])
    await untilWaiting(db, 3)
  })
  await waiting
  t.match(
    await charge(db, { userId: 'alice', charges, at: boundary, endpoint: null, metadata: {}, idempotencyKey: 'k' }),
    { admitted: true }
  )
  t.match(await periodsOf(db, 'alice', 'calls'), [{ used: 2, reserved: 0, closed: true }, { closed: false }])
  t.strictSame(await standing(db, 'alice', 'calls', boundary), [4, 0, 6])
  t.strictSame(await violations(db), [])
})

t.test('a reset that waited until the period ended resets the next one', async t => {
  const db = await database(5)
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 2 })
  let waiting: ReturnType<typeof resetQuota> | undefined
  await db.query("UPDATE quota_limits SET period_end = now() + interval '500 milliseconds'")
  await inTransaction(db, async inside => {
    await inside.query('SELECT 1 FROM quota_limits FOR UPDATE')
    waiting = resetQuota(db, 'alice', 'calls', BY)
    await untilWaiting(db)
    await sleep(600)
  })
  t.strictSame(await waiting, ['calls'])
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 0, 10])
  t.strictSame(await violations(db), [])
})

t.test('counters stay consistent throughout while fifty workers charge and operators reset and adjust', async t => {
  const db = await database(60)
  await declareTypes(db, { calls: { limit: 400 }, more: { limit: -1 }, bytes: { limit: 1000, kind: 'level' } })
  const users = ['alice', 'bob']
  let stop = false
  let admitted = 0
  const kept = { alice: 0, bob: 0 } as Record<string, number>
  const worker = async (i: number) => {
    for (let n = i; !stop; n++) {
      const user = users[n % 2]!
      const outcome = await tryHold(db, user, n % 5 ? { calls: 1 } : { bytes: 2, calls: 1, more: 3 })
      if (!outcome.admitted) continue
      admitted++
      if (n % 3 === 0) await release(db, user, outcome.charges)
      else {
        await commit(db, user, costing(outcome.charges), '/a')
        kept[user]! += outcome.charges.length
      }
    }
  }
  const operator = async (i: number) => {
    for (let n = i; !stop; n++) {
      if (n % 2) await resetQuota(db, users[(n % 4) >> 1]!, n % 3 ? 'calls' : null, BY)
      else await adjustQuota(db, users[(n % 4) >> 1]!, 'calls', 200 + (n % 300), BY)
      await sleep(5)
    }
  }
  const everybody = [...Array.from({ length: 50 }, (_, i) => worker(i)), operator(0), operator(1)]
  let looks = 0
  for (const end = Date.now() + 5000; Date.now() < end; looks++) {
    const found = await violations(db, { overLimit: true })
    if (found.length > 0) t.fail(found.join('\n'))
  }
  stop = true
  await Promise.all(everybody)
  t.comment(`${admitted} admitted, ${looks} looks`)
  t.ok(admitted > 100 && looks > 10)
  t.strictSame(await violations(db, { overLimit: true }), [])
  for (const user of users) {
    t.equal((await standing(db, user, 'calls'))[1], 0, 'nothing is held any more')
    t.equal((await logOf(db, user)).length, kept[user])
  }
  t.equal(await deadlocks(db), 0)
})
