import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { findDiscrepancies } from '../../../src/store/operator/reconcile.ts'
import { resetQuota } from '../../../src/store/operator/reset-quota.ts'
import { viewQuotas } from '../../../src/store/operator/view-quotas.ts'
import { both } from '../../fixtures/both.ts'
import { BY, costing, hold, standing } from '../../fixtures/charges.ts'

const onBoth = await both(t)
const AT = new Date('2026-03-10T12:00:00Z')

onBoth('shows an unknown user the quotas that a first request would create, and writes nothing', async (t, db) => {
  await declareTypes(db, {
    calls: { name: 'Calls', limit: 10 },
    bytes: { unit: 'byte', limit: -1, kind: 'level' },
    old: { limit: 1 }
  })
  await db.query("UPDATE quota_types SET is_active = false WHERE type_key = 'old'")
  t.strictSame(await viewQuotas(db, 'alice', undefined, AT), {
    known: false,
    quotas: [
      {
        type: 'bytes',
        name: 'bytes',
        unit: 'byte',
        kind: 'level',
        limit: -1,
        used: 0,
        reserved: 0,
        remaining: -1,
        periodStart: AT,
        resetsAt: null
      },
      {
        type: 'calls',
        name: 'Calls',
        unit: 'call',
        kind: 'flow',
        limit: 10,
        used: 0,
        reserved: 0,
        remaining: 10,
        periodStart: new Date('2026-03-01'),
        resetsAt: new Date('2026-04-01')
      }
    ]
  })
  t.equal((await db.query('SELECT 1 FROM quota_users')).length, 0)
})

onBoth('shows one type when asked for one, and none for an unknown key', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10 } })
  await hold(db, 'alice', { a: 1 })
  t.strictSame(
    (await viewQuotas(db, 'alice', 'b')).quotas.map(q => q.type),
    ['b']
  )
  t.strictSame((await viewQuotas(db, 'alice', 'nowhere')).quotas, [])
})

onBoth('shows what is charged apart from what is held', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 3 })), null)
  await hold(db, 'alice', { calls: 4 })
  t.strictSame(await standing(db, 'alice', 'calls'), [3, 4, 3])
})

onBoth('shows the new period once the old one has ended, without writing it', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 4 }, { at: AT })
  const [quota] = (await viewQuotas(db, 'alice', 'calls', new Date('2026-05-31T23:59:59Z'))).quotas
  t.match(quota, {
    used: 0,
    reserved: 0,
    remaining: 10,
    periodStart: '2026-05-01',
    resetsAt: '2026-06-01'
  })
  t.equal((await db.query('SELECT 1 FROM quota_limits WHERE used_amount = 4')).length, 1)
})

onBoth('shows a new period as it will be opened, beginning at the end of the one before', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'day' } })
  await hold(db, 'alice', { calls: 4 }, { at: AT })
  await db.query("UPDATE quota_users SET time_zone = 'America/New_York'")
  // In New York it is still the tenth of March, which began at 04:00 UTC.
  const at = new Date('2026-03-11T01:00:00Z')
  const opens = new Date('2026-03-11')
  const ends = new Date('2026-03-11T04:00:00Z')
  const seen = async () => (await viewQuotas(db, 'alice', 'calls', at)).quotas.map(q => [q.periodStart, q.resetsAt])
  t.strictSame(await seen(), [[opens, ends]])
  const [held] = await hold(db, 'alice', { calls: 1 }, { at })
  t.strictSame([held!.balance.periodStart, held!.balance.resetsAt], [opens, ends])
  t.strictSame(await seen(), [[opens, ends]])
})

onBoth('shows a type that was switched off only to users who already have it', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 1 })
  await db.query('UPDATE quota_types SET is_active = false')
  t.strictSame(
    (await viewQuotas(db, 'alice')).quotas.map(q => q.type),
    ['calls']
  )
  t.strictSame((await viewQuotas(db, 'bob')).quotas, [])
})

onBoth('shows a type that is newer than the user with its default limit', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 1 })
  await declareTypes(db, { fresh: { limit: 7 } })
  t.strictSame(await standing(db, 'alice', 'fresh'), [0, 0, 7])
})

onBoth('reconciling finds no difference after charges, closed periods and resets', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, bytes: { limit: 10, kind: 'level' } })
  const old = await hold(db, 'alice', { calls: 3, bytes: 2 }, { at: new Date('2026-01-10') })
  await hold(db, 'alice', { calls: 4 }, { at: AT })
  await commit(db, 'alice', costing(old), null)
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 5 })), null)
  await resetQuota(db, 'alice', null, BY)
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 1, bytes: 1 })), null)
  t.strictSame(await findDiscrepancies(db), [])
})

onBoth('reconciling finds a wrong counter of the running period, of a closed one and of a level', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, bytes: { limit: 10, kind: 'level' } })
  await commit(
    db,
    'alice',
    costing(await hold(db, 'alice', { calls: 3, bytes: 2 }, { at: new Date('2026-01-10') })),
    null
  )
  await hold(db, 'alice', { calls: 4 }, { at: AT })
  await db.query('UPDATE quota_limits SET used_amount = used_amount + 1')
  await db.query('UPDATE quota_periods SET used_amount = used_amount + 2 WHERE closed_at IS NOT NULL')
  t.strictSame(await findDiscrepancies(db), [
    {
      userId: 'alice',
      type: 'bytes',
      periodStart: new Date('2026-01-10'),
      usedAmount: 3,
      logged: 2,
      held: 0
    },
    {
      userId: 'alice',
      type: 'calls',
      periodStart: new Date('2026-01-01'),
      usedAmount: 5,
      logged: 3,
      held: 0
    },
    {
      userId: 'alice',
      type: 'calls',
      periodStart: new Date('2026-03-01'),
      usedAmount: 5,
      logged: 0,
      held: 4
    }
  ])
  await db.query('UPDATE quota_limits SET used_amount = used_amount - 1')
  await db.query('UPDATE quota_periods SET used_amount = used_amount - 2 WHERE closed_at IS NOT NULL')
})

onBoth('reconciling finds a reservation and a log row that were deleted by hand', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 3 })), null)
  await hold(db, 'bob', { calls: 4 })
  await db.query('DELETE FROM quota_reservations')
  await db.query('DELETE FROM usage_logs')
  t.match(await findDiscrepancies(db), [
    { userId: 'alice', usedAmount: 3, logged: 0 },
    { userId: 'bob', usedAmount: 4, logged: 0, held: 0 }
  ])
  await db.query('UPDATE quota_limits SET used_amount = 0')
})
