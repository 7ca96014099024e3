import t from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { charge } from '../../../src/store/charge/charge.ts'
import { recallCharge } from '../../../src/store/charge/recall-charge.ts'
import { setLevel } from '../../../src/store/charge/set-level.ts'
import { type Database, stateOf } from '../../../src/store/database.ts'
import { adjustQuota } from '../../../src/store/operator/adjust-quota.ts'
import { listUsage } from '../../../src/store/operator/list-usage.ts'
import { pruneIdempotencyKeys } from '../../../src/store/upkeep/prune-idempotency-keys.ts'
import { both } from '../../fixtures/both.ts'
import { type Amounts, BY, hold, logOf, standing, wanted } from '../../fixtures/charges.ts'

const onBoth = await both(t)

const consume = async (db: Database, userId: string, amounts: Amounts, idempotencyKey: string | null = null) =>
  charge(db, {
    userId,
    charges: await wanted(db, amounts),
    endpoint: '/chat',
    metadata: { model: 'm' },
    idempotencyKey
  })

const level = async (db: Database, move: 'set' | 'credit', amount: number, idempotencyKey: string | null = null) => {
  const [want] = await wanted(db, { bytes: amount })
  return setLevel(db, {
    userId: 'alice',
    typeId: want!.typeId,
    type: 'bytes',
    id: v7(),
    amount,
    move,
    endpoint: null,
    metadata: {},
    idempotencyKey
  })
}

onBoth('a direct charge moves the counter and writes one log row, without a reservation', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const outcome = await consume(db, 'alice', { calls: 4 })
  t.match(outcome, { admitted: true, charges: [{ balance: { used: 4, reserved: 0, remaining: 6 } }] })
  t.match(await listUsage(db, {}, { limit: 10 }), [
    { id: outcome.admitted && outcome.charges[0]!.id, amount: 4, endpoint: '/chat', metadata: '{"model": "m"}' }
  ])
  t.equal((await db.query('SELECT 1 FROM quota_reservations')).length, 0)
})

onBoth('a charge that does not fit changes nothing, and its idempotency key is not stored', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 7 })
  t.match(await consume(db, 'alice', { calls: 4 }, 'k'), {
    admitted: false,
    violations: [{ type: 'calls', used: 0, reserved: 7, remaining: 3, required: 4 }]
  })
  t.strictSame(await logOf(db, 'alice'), [])
  t.equal(await recallCharge(db, 'alice', 'k'), undefined)
})

onBoth(
  'the amount 0 is charged and logged, even past a limit that was lowered',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 10 } })
    await consume(db, 'alice', { calls: 5 })
    await adjustQuota(db, 'alice', 'calls', 3, BY)
    t.match(await consume(db, 'alice', { calls: 0 }), { charges: [{ balance: { limit: 3, used: 5, remaining: 0 } }] })
    t.equal((await logOf(db, 'alice')).length, 2)
  },
  { overLimit: true }
)

onBoth('a repeated idempotency key rolls the second charge back, and keeps the first answer', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 2 })
  const first = await consume(db, 'alice', { calls: 4 }, 'k')
  await consume(db, 'alice', { calls: 1 })
  const error = await consume(db, 'alice', { calls: 2 }, 'k').then(
    () => undefined,
    (error: unknown) => error
  )
  t.equal(stateOf(error), '23505')
  t.strictSame(await standing(db, 'alice', 'calls'), [5, 2, 3])
  t.strictSame(
    (await logOf(db, 'alice')).map(([amount]) => amount),
    [4, 1]
  )
  if (!first.admitted) return t.fail('the first charge was denied')
  const { typeId, balance } = first.charges[0]!
  const { limit, used, reserved, periodStart, resetsAt } = balance
  t.strictSame(await recallCharge(db, 'alice', 'k'), {
    typeId,
    amount: 4,
    balance: { limit, used, reserved, periodStart, resetsAt }
  })
})

onBoth('an idempotency key belongs to its user: another user can use the same one', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'never' } })
  t.equal((await consume(db, 'alice', { calls: 4 }, 'k')).admitted, true)
  t.equal((await consume(db, 'bob', { calls: 5 }, 'k')).admitted, true)
  t.match(await recallCharge(db, 'bob', 'k'), { amount: 5, balance: { resetsAt: null } })
})

onBoth('a credit lowers a level, never below 0, and leaves reservations alone', async (t, db) => {
  await declareTypes(db, { bytes: { limit: 100, kind: 'level' } })
  t.match(await level(db, 'credit', 5), { used: 0, remaining: 100 }, 'of a user who was never seen')
  await consume(db, 'alice', { bytes: 40 })
  await hold(db, 'alice', { bytes: 20 })
  t.match(await level(db, 'credit', 15), { used: 25, reserved: 20, remaining: 55 })
  t.match(await level(db, 'credit', 99), { used: 0, reserved: 20, remaining: 80 })
  t.strictSame(
    (await logOf(db, 'alice')).map(([amount]) => amount),
    [0, 40, -15, -25]
  )
})

onBoth('setting a level logs the difference, in both directions, even past the limit', async (t, db) => {
  await declareTypes(db, { bytes: { limit: 100, kind: 'level' } })
  await consume(db, 'alice', { bytes: 40 })
  await hold(db, 'alice', { bytes: 20 })
  t.match(await level(db, 'set', 70), { used: 70, reserved: 20, remaining: 10 })
  t.match(await level(db, 'set', 130), { used: 130, reserved: 20, remaining: 0 })
  t.match(await level(db, 'set', 5), { used: 5, reserved: 20, remaining: 75 })
  t.match(await level(db, 'set', 5), { used: 5 })
  t.strictSame(
    (await logOf(db, 'alice')).map(([amount]) => amount),
    [40, 30, 60, -125, 0]
  )
})

onBoth('a repeated idempotency key rolls the second change of a level back', async (t, db) => {
  await declareTypes(db, { bytes: { limit: 100, kind: 'level' } })
  await consume(db, 'alice', { bytes: 40 })
  await level(db, 'credit', 10, 'k')
  await t.rejects(level(db, 'credit', 10, 'k'), { cause: { code: '23505' } })
  t.strictSame(await standing(db, 'alice', 'bytes'), [30, 0, 70])
  t.match(await recallCharge(db, 'alice', 'k'), { amount: -10, balance: { used: 30, limit: 100 } })
})

onBoth('deletes idempotency keys that are older than a day, at most a thousand at once', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await consume(db, 'alice', { calls: 1 }, 'young')
  await consume(db, 'bob', { calls: 2 }, 'old1')
  await db.query(
    `INSERT INTO quota_idempotency_keys (user_id, key, quota_type_id, amount, balance, created_at)
     SELECT 'alice', 'old' || n, id, 1, '{}', now() - interval '24 hours 1 second' FROM quota_types CROSS JOIN generate_series(1, 1100) AS n`
  )
  await db.query(
    "UPDATE quota_idempotency_keys SET created_at = now() - interval '23 hours 59 minutes' WHERE key = 'young'"
  )
  t.equal(await pruneIdempotencyKeys(db), 1000)
  t.equal(await pruneIdempotencyKeys(db), 100)
  t.equal(await pruneIdempotencyKeys(db), 0)
  t.match(await recallCharge(db, 'alice', 'young'), { amount: 1 })
  t.match(await recallCharge(db, 'bob', 'old1'), { amount: 2 }, "another user's key of the same name")
})
