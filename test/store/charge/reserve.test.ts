import t from 'tap'
import { MAX_AMOUNT } from '../../../src/quota/amount.ts'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { listExpired } from '../../../src/store/charge/expire-reservations.ts'
import { renewReservations } from '../../../src/store/charge/renew-reservations.ts'
import { reserve } from '../../../src/store/charge/reserve.ts'
import { adjustQuota } from '../../../src/store/operator/adjust-quota.ts'
import { viewQuotas } from '../../../src/store/operator/view-quotas.ts'
import { both } from '../../fixtures/both.ts'
import { BY, hold, standing, tryHold, wanted } from '../../fixtures/charges.ts'

const onBoth = await both(t)
const AT = new Date('2026-03-10T12:00:00.123Z')

onBoth('holds an amount, and answers with the balance afterwards', async (t, db) => {
  await declareTypes(db, { calls: { limit: 100 } })
  await hold(db, 'alice', { calls: 30 }, { at: AT })
  const [charge] = await hold(db, 'alice', { calls: 12 }, { at: AT })
  t.strictSame(charge!.balance, {
    type: 'calls',
    limit: 100,
    used: 0,
    reserved: 42,
    remaining: 58,
    periodStart: new Date('2026-03-01'),
    resetsAt: new Date('2026-04-01')
  })
  t.strictSame(charge!.admittedAt, AT)
  t.strictSame(charge!.periodStart, new Date('2026-03-01'))
})

onBoth('admits up to the limit exactly, and not one more', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  t.equal((await tryHold(db, 'alice', { calls: 11 })).admitted, false)
  t.equal((await tryHold(db, 'alice', { calls: 10 })).admitted, true)
  t.equal((await tryHold(db, 'alice', { calls: 1 })).admitted, false)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 10, 0])
})

onBoth('takes all types or none, and lists every one that does not fit', async (t, db) => {
  await declareTypes(db, { a: { limit: 5 }, b: { limit: 100 }, c: { limit: 3 } })
  await hold(db, 'alice', { c: 2 }, { at: AT })
  const outcome = await tryHold(db, 'alice', { c: 2, b: 7, a: 6 }, { at: AT })
  t.match(outcome, {
    admitted: false,
    violations: [
      { type: 'c', limit: 3, used: 0, reserved: 2, remaining: 1, required: 2 },
      { type: 'a', limit: 5, used: 0, reserved: 0, remaining: 5, required: 6 }
    ]
  })
  t.equal(outcome.admitted ? 0 : outcome.violations.length, 2)
  t.strictSame(await standing(db, 'alice', 'b', AT), [0, 0, 100])
  t.strictSame(await standing(db, 'alice', 'c', AT), [0, 2, 1])
  t.equal((await hold(db, 'alice', { c: 1, b: 7, a: 5 }, { at: AT })).length, 3)
})

onBoth('a denial says in how many seconds the period ends, and null if it has no end', async (t, db) => {
  await declareTypes(db, { daily: { limit: 0, period: 'day' }, once: { limit: 0, period: 'never' } })
  const outcome = await tryHold(db, 'alice', { daily: 1, once: 1 }, { at: new Date('2026-03-10T23:58:59.500Z') })
  t.match(outcome, { violations: [{ retryAfter: 61 }, { retryAfter: null }] })
})

onBoth('admits the amount 0 at a limit that is reached, and at the limit 0', async (t, db) => {
  await declareTypes(db, { calls: { limit: 1 }, none: { limit: 0 } })
  await hold(db, 'alice', { calls: 1 })
  t.equal((await tryHold(db, 'alice', { calls: 0, none: 0 })).admitted, true)
  t.equal((await tryHold(db, 'alice', { none: 1 })).admitted, false)
})

onBoth(
  'admits the amount 0 even past a limit that was lowered, alone and beside another type that fits',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 10 }, tokens: { limit: 10 } })
    await hold(db, 'alice', { calls: 5 })
    await adjustQuota(db, 'alice', 'calls', 3, BY)
    t.equal((await tryHold(db, 'alice', { calls: 0 })).admitted, true)
    t.equal((await tryHold(db, 'alice', { calls: 0, tokens: 1 })).admitted, true)
    t.equal((await tryHold(db, 'alice', { calls: 1 })).admitted, false)
    t.match(await tryHold(db, 'alice', { calls: 0, tokens: 10 }), { violations: [{ type: 'tokens' }] })
    t.strictSame(await standing(db, 'alice', 'calls'), [0, 5, 0])
  },
  { overLimit: true }
)

onBoth('denies an unlimited quota only beyond 2^53−1', async (t, db) => {
  await declareTypes(db, { calls: { limit: -1 }, most: { limit: MAX_AMOUNT } })
  const [calls, most] = await hold(db, 'alice', { calls: MAX_AMOUNT - 1, most: MAX_AMOUNT })
  t.match(calls!.balance, { limit: -1, reserved: MAX_AMOUNT - 1, remaining: -1 })
  t.match(most!.balance, { limit: MAX_AMOUNT, reserved: MAX_AMOUNT, remaining: 0 })
  t.match(await tryHold(db, 'alice', { calls: 2 }), { admitted: false, violations: [{ type: 'calls', limit: -1 }] })
  t.match(await tryHold(db, 'alice', { most: MAX_AMOUNT }), { admitted: false })
  t.equal((await tryHold(db, 'alice', { calls: 1 })).admitted, true)
})

onBoth('gives a user seen for the first time the defaults of every active type', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, bytes: { limit: 99, kind: 'level' }, old: { limit: 1 } })
  await db.query("UPDATE quota_types SET is_active = false WHERE type_key = 'old'")
  await hold(db, 'alice', { calls: 1 })
  const { known, quotas } = await viewQuotas(db, 'alice')
  t.equal(known, true)
  t.strictSame(
    quotas.map(q => [q.type, q.limit]),
    [
      ['bytes', 99],
      ['calls', 10]
    ]
  )
})

onBoth('opens the counter of a type that is newer than the user, in one call with an older one', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 1 })
  await declareTypes(db, { bytes: { limit: 5, kind: 'level' } })
  await hold(db, 'alice', { bytes: 2, calls: 3 })
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 4, 6])
  t.strictSame(await standing(db, 'alice', 'bytes'), [0, 2, 3])
})

onBoth('a type whose row is gone is refused by name, and nothing of the other type is held', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, gone: { limit: 10 } })
  const charges = await wanted(db, { calls: 1, gone: 1 })
  await db.query("DELETE FROM quota_types WHERE type_key = 'gone'")
  await t.rejects(reserve(db, { userId: 'alice', charges, leaseMs: 1000 }), {
    code: 'FST_QUOTA_UNKNOWN_TYPE',
    message: /'gone'/
  })
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 0, 10])
})

onBoth('an id is taken once: reserving with it again is refused, and holds nothing', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const charges = await wanted(db, { calls: 4 })
  await reserve(db, { userId: 'alice', charges, leaseMs: 60_000 })
  await t.rejects(reserve(db, { userId: 'alice', charges, leaseMs: 60_000 }), { code: 'FST_QUOTA_STORE' })
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 4, 6])
})

onBoth("keeps one user's usage apart from another's, whatever characters the id has", async (t, db) => {
  await declareTypes(db, { calls: { limit: 1 } })
  for (const userId of ["o'brien", '$1', '{"a":1}', 'ÄÖ 漢字 😀', '%', 'x'.repeat(255)]) {
    t.equal((await tryHold(db, userId, { calls: 1 })).admitted, true, userId)
    t.equal((await tryHold(db, userId, { calls: 1 })).admitted, false, userId)
  }
})

onBoth('holds and renews also what a clock that was set back says began in the future', async (t, db) => {
  await declareTypes(db, { bytes: { limit: 10, kind: 'level' } })
  const [before] = await hold(db, 'alice', { bytes: 1 }, { at: new Date(Date.now() + 120_000) })
  await hold(db, 'alice', { bytes: 2 }, { leaseMs: 1 })
  const [other] = await hold(db, 'bob', { bytes: 3 }, { leaseMs: 1 })
  const held = [
    { userId: 'alice', id: before!.id },
    { userId: 'bob', id: other!.id }
  ]
  await renewReservations(db, held, 60_000)
  t.strictSame(await standing(db, 'alice', 'bytes'), [0, 3, 7])
  t.strictSame(await listExpired(db, 10), [], 'neither has expired')
})
