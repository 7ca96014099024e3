import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { ensureUser } from '../../../src/store/charge/ensure-user.ts'
import { release } from '../../../src/store/charge/release.ts'
import { adjustQuota } from '../../../src/store/operator/adjust-quota.ts'
import { resetQuota } from '../../../src/store/operator/reset-quota.ts'
import { viewQuotas } from '../../../src/store/operator/view-quotas.ts'
import { both } from '../../fixtures/both.ts'
import { auditOf, BY, costing, hold, logOf, periodsOf, standing, tryHold } from '../../fixtures/charges.ts'

const onBoth = await both(t)

onBoth('a reset gives the whole limit again, keeps the end of the period, and deletes no log row', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 10 })), null)
  const before = (await viewQuotas(db, 'alice')).quotas[0]!
  t.strictSame(await resetQuota(db, 'alice', 'calls', BY), ['calls'])
  const after = (await viewQuotas(db, 'alice')).quotas[0]!
  t.match(after, { used: 0, reserved: 0, remaining: 10, resetsAt: before.resetsAt!.toISOString() })
  t.equal((await logOf(db, 'alice')).length, 1)
  t.strictSame(await periodsOf(db, 'alice', 'calls'), [
    {
      start: before.periodStart.toISOString(),
      end: after.periodStart.toISOString(),
      limit: 10,
      used: 10,
      reserved: 0,
      closed: true
    },
    {
      start: after.periodStart.toISOString(),
      end: before.resetsAt!.toISOString(),
      limit: null,
      used: 0,
      reserved: 0,
      closed: false
    }
  ])
  t.equal((await tryHold(db, 'alice', { calls: 10 })).admitted, true)
})

onBoth('what was held at a reset belongs to the period before it', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const committed = await hold(db, 'alice', { calls: 3 })
  const released = await hold(db, 'alice', { calls: 4 })
  await resetQuota(db, 'alice', null, BY)
  t.match((await periodsOf(db, 'alice', 'calls'))[0], { used: 7, reserved: 7 })
  await commit(db, 'alice', costing(committed), null)
  await release(db, 'alice', released)
  t.match((await periodsOf(db, 'alice', 'calls'))[0], { used: 3, reserved: 0 })
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 0, 10])
})

onBoth('a charge right after a reset counts in the new period, and its log row lies in it', async (t, db) => {
  await declareTypes(db, { calls: { limit: 1 } })
  for (let i = 0; i < 3; i++) {
    await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 1 })), null)
    await resetQuota(db, 'alice', 'calls', BY)
  }
  t.strictSame(
    (await periodsOf(db, 'alice', 'calls')).map(p => p.used),
    [1, 1, 1, 0]
  )
})

onBoth('a reset of everything leaves levels untouched, and one of a level does nothing', async (t, db) => {
  await declareTypes(db, {
    calls: { limit: 10 },
    tokens: { limit: 10, period: 'never' },
    bytes: { limit: 10, kind: 'level' }
  })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 1, tokens: 2, bytes: 3 })), null)
  t.strictSame((await resetQuota(db, 'alice', null, BY)).sort(), ['calls', 'tokens'])
  t.strictSame(await resetQuota(db, 'alice', 'bytes', BY), [])
  t.strictSame(await standing(db, 'alice', 'bytes'), [3, 0, 7])
  t.strictSame(await standing(db, 'alice', 'tokens'), [0, 0, 10])
  t.equal((await auditOf(db, 'alice')).length, 2)
})

onBoth('a reset of one type leaves the others alone, and one of an unknown type does nothing', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10 } })
  await hold(db, 'alice', { a: 1, b: 2 })
  await resetQuota(db, 'alice', 'a', BY)
  t.strictSame(await resetQuota(db, 'alice', 'nowhere', BY), [])
  t.strictSame(await standing(db, 'alice', 'a'), [0, 0, 10])
  t.strictSame(await standing(db, 'alice', 'b'), [0, 2, 8])
})

onBoth('a reset and an adjustment also work for types that are newer than the user', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 } })
  await ensureUser(db, 'alice')
  await declareTypes(db, { b: { limit: 10 } })
  t.strictSame((await resetQuota(db, 'alice', null, BY)).sort(), ['a', 'b'])
  await declareTypes(db, { c: { limit: 10 } })
  t.match(await adjustQuota(db, 'alice', 'c', 20, BY), { limit: 20, used: 0, remaining: 20 })
})

onBoth('a reset is in the audit log: who, why, by which request, before and after', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 3 })), null)
  await hold(db, 'alice', { calls: 2 })
  await resetQuota(db, 'alice', 'calls', BY)
  const [before, after] = await periodsOf(db, 'alice', 'calls')
  t.match(await auditOf(db, 'alice'), [
    {
      actor: 'ops',
      action: 'reset',
      quota_type: 'calls',
      reason: 'asked by phone',
      request_id: 'req-1',
      before: { used: 3, reserved: 2, period_start: before!.start },
      after: { used: 0, reserved: 0, period_start: after!.start }
    }
  ])
})

onBoth(
  'a period that had ended long ago is closed at its own end, and the reset closes the running one',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 10 } })
    await hold(db, 'alice', { calls: 5 }, { at: new Date('2026-01-10') })
    await resetQuota(db, 'alice', 'calls', BY)
    const periods = await periodsOf(db, 'alice', 'calls')
    t.strictSame(
      periods.map(p => [p.used, p.closed]),
      [
        [5, true],
        [0, true],
        [0, false]
      ]
    )
    t.equal(periods[0]!.end, '2026-02-01T00:00:00.000Z')
  }
)

onBoth('an adjusted limit applies at once, and what is used stays used', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 8 })), null)
  t.match(await adjustQuota(db, 'alice', 'calls', 12, BY), { limit: 12, used: 8, reserved: 0, remaining: 4 })
  t.equal((await tryHold(db, 'alice', { calls: 5 })).admitted, false)
  t.equal((await tryHold(db, 'alice', { calls: 4 })).admitted, true)
})

onBoth(
  'a limit may be lowered below the usage: nothing more is admitted, nothing is taken back',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 10 } })
    const held = await hold(db, 'alice', { calls: 8 })
    t.match(await adjustQuota(db, 'alice', 'calls', 5, BY), { limit: 5, used: 0, reserved: 8, remaining: 0 })
    t.match(await tryHold(db, 'alice', { calls: 1 }), { admitted: false, violations: [{ remaining: 0, limit: 5 }] })
    const balances = await commit(db, 'alice', costing(held), null)
    t.match(balances.get('calls'), { used: 8, remaining: 0 })
  },
  { overLimit: true }
)

onBoth('a limit that is adjusted after the end of a period applies only to the next', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 8 }, { at: new Date('2026-01-10') })), null)
  t.match(await adjustQuota(db, 'alice', 'calls', 50, BY), { limit: 50, used: 0, remaining: 50 })
  t.match(await periodsOf(db, 'alice', 'calls'), [{ limit: 10, used: 8, closed: true }, { closed: false }])
})

onBoth('adjusting a limit to −1 makes it unlimited, and a number ends that', async (t, db) => {
  await declareTypes(db, { calls: { limit: 0 } })
  await ensureUser(db, 'alice')
  t.match(await adjustQuota(db, 'alice', 'calls', -1, BY), { limit: -1, remaining: -1 })
  await hold(db, 'alice', { calls: 1_000_000 })
  t.match(await adjustQuota(db, 'alice', 'calls', 2_000_000, BY), { limit: 2_000_000, remaining: 1_000_000 })
})

onBoth('an adjustment is in the audit log, and leaves the limit of others alone', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await ensureUser(db, 'alice')
  await adjustQuota(db, 'alice', 'calls', 50, BY)
  await adjustQuota(db, 'alice', 'calls', -1, { actor: 'application', reason: null, requestId: null })
  t.match(await auditOf(db, 'alice'), [
    { actor: 'ops', action: 'adjust', quota_type: 'calls', before: { limit: 10 }, after: { limit: 50 } },
    { actor: 'application', reason: null, request_id: null, before: { limit: 50 }, after: { limit: -1 } }
  ])
  t.strictSame(await standing(db, 'bob', 'calls'), [0, 0, 10])
})

onBoth('adjusting an unknown type or user returns nothing, creates no user, and writes no audit row', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  t.equal(await adjustQuota(db, 'alice', 'calls', 5, BY), undefined)
  t.equal((await db.query('SELECT 1 FROM quota_users')).length, 0)
  await ensureUser(db, 'alice')
  t.equal(await adjustQuota(db, 'alice', 'nowhere', 5, BY), undefined)
  t.strictSame(await auditOf(db, 'alice'), [])
})
