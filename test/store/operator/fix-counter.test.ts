import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { release } from '../../../src/store/charge/release.ts'
import { setLevel } from '../../../src/store/charge/set-level.ts'
import type { Database } from '../../../src/store/database.ts'
import { fixCounters } from '../../../src/store/operator/fix-counter.ts'
import { resetQuota } from '../../../src/store/operator/reset-quota.ts'
import { both } from '../../fixtures/both.ts'
import { auditOf, BY, costing, hold, periodsOf, standing, wanted } from '../../fixtures/charges.ts'

const onBoth = await both(t)

const spend = async (db: Database, amounts: Record<string, number>, user = 'alice') =>
  commit(db, user, costing(await hold(db, user, amounts)), null)

/** Writes into a counter by hand, as nobody should. */
const spoil = (db: Database, set: string, type: string, user = 'alice') =>
  db.query(
    `UPDATE quota_limits SET ${set} WHERE user_id = $1 AND quota_type_id = (SELECT id FROM quota_types WHERE type_key = $2)`,
    [user, type]
  )

onBoth('a counter that is too high or too low is set to what is charged and held', async (t, db) => {
  await declareTypes(db, { calls: { limit: 100 } })
  await spend(db, { calls: 5 })
  const held = await hold(db, 'alice', { calls: 2 })
  for (const usedAmount of [90, 3]) {
    await spoil(db, `used_amount = ${usedAmount}`, 'calls')
    t.match(await fixCounters(db, BY), [
      { userId: 'alice', type: 'calls', usedAmount, logged: 5, held: 2, obstacle: null }
    ])
    t.strictSame(await standing(db, 'alice', 'calls'), [5, 2, 93])
  }
  await commit(db, 'alice', costing(held), null)
  t.strictSame(await standing(db, 'alice', 'calls'), [7, 0, 93])
})

onBoth(
  'a counter that lost what is held is set to the open reservations, and these can be settled again',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 100 } })
    const [first, second] = [await hold(db, 'alice', { calls: 3 }), await hold(db, 'alice', { calls: 4 })]
    await spoil(db, 'used_amount = 0', 'calls')
    await t.rejects(release(db, 'alice', second), { code: 'FST_QUOTA_STORE' })
    t.match(await fixCounters(db, BY), [{ usedAmount: 0, logged: 0, held: 7, obstacle: null }])
    await commit(db, 'alice', costing(first), null)
    await release(db, 'alice', second)
    t.strictSame(await standing(db, 'alice', 'calls'), [3, 0, 97])
  }
)

onBoth('a closed period is set to its own log rows and reservations; the running one is left alone', async (t, db) => {
  await declareTypes(db, { calls: { limit: 100 } })
  await spend(db, { calls: 5 })
  const late = await hold(db, 'alice', { calls: 3 })
  await resetQuota(db, 'alice', 'calls', BY)
  await spend(db, { calls: 1 })
  await db.query('UPDATE quota_periods SET used_amount = 50 WHERE closed_at IS NOT NULL')
  t.match(await fixCounters(db, BY), [{ usedAmount: 50, logged: 5, held: 3, obstacle: null }])
  t.match(await periodsOf(db, 'alice', 'calls'), [{ used: 8, reserved: 3, closed: true }, { closed: false }])
  await commit(db, 'alice', costing(late), null)
  t.match((await periodsOf(db, 'alice', 'calls'))[0], { used: 8, reserved: 0, closed: true })
  t.strictSame(await standing(db, 'alice', 'calls'), [1, 0, 99])
})

onBoth('a level is set to the sum of its whole log', async (t, db) => {
  await declareTypes(db, { bytes: { limit: 1000, kind: 'level' } })
  await spend(db, { bytes: 100 })
  const [wish] = await wanted(db, { bytes: 30 })
  await setLevel(db, { userId: 'alice', ...wish!, move: 'credit', endpoint: null, metadata: {}, idempotencyKey: null })
  await db.query("UPDATE usage_logs SET created_at = created_at - interval '400 days' WHERE amount > 0")
  await hold(db, 'alice', { bytes: 5 })
  await spoil(db, 'used_amount = 999', 'bytes')
  t.match(await fixCounters(db, BY), [{ usedAmount: 999, logged: 70, held: 5, obstacle: null }])
  t.strictSame(await standing(db, 'alice', 'bytes'), [70, 5, 925])
})

onBoth(
  'an unlimited counter and one above a lowered limit are repaired like any other',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: -1 }, more: { limit: 10 } })
    await spend(db, { calls: 1_000_000, more: 8 })
    await spoil(db, 'used_amount = 0', 'calls')
    await spoil(db, 'used_amount = 0, limit_amount = 5', 'more')
    t.equal((await fixCounters(db, BY)).length, 2)
    t.strictSame(await standing(db, 'alice', 'calls'), [1_000_000, 0, -1])
    t.strictSame(await standing(db, 'alice', 'more'), [8, 0, 0])
  },
  { overLimit: true }
)

onBoth('every wrong counter of every user is repaired at once, and no other is touched', async (t, db) => {
  await declareTypes(db, { a: { limit: 100 }, b: { limit: 100 } })
  for (const user of ['alice', 'bob', 'carol']) await spend(db, { a: 1, b: 2 }, user)
  await resetQuota(db, 'bob', 'a', BY)
  await spoil(db, 'used_amount = 9', 'a', 'alice')
  await spoil(db, 'used_amount = 9', 'b', 'alice')
  await spoil(db, 'used_amount = 9', 'a', 'bob')
  await db.query('UPDATE quota_periods SET used_amount = 8 WHERE closed_at IS NOT NULL')
  const untouched = "SELECT updated_at::text AS at FROM quota_limits WHERE user_id = 'carol' ORDER BY quota_type_id"
  const before = await db.query(untouched)
  t.strictSame(
    (await fixCounters(db, BY)).map(fix => [fix.userId, fix.type, fix.usedAmount, fix.logged]),
    [
      ['alice', 'a', 9, 1],
      ['alice', 'b', 9, 2],
      ['bob', 'a', 8, 1],
      ['bob', 'a', 9, 0]
    ]
  )
  t.strictSame(await db.query(untouched), before)
})

onBoth('a repair is in the audit log: who, why, before and after', async (t, db) => {
  await declareTypes(db, { calls: { limit: 100 } })
  await spend(db, { calls: 5 })
  await hold(db, 'alice', { calls: 2 })
  await spoil(db, 'used_amount = 30', 'calls')
  await fixCounters(db, { actor: 'ops', reason: 'restored from a backup', requestId: null })
  const { start } = (await periodsOf(db, 'alice', 'calls'))[0]!
  const [row, ...others] = (await auditOf(db, 'alice')) as [Record<string, Record<string, string>>]
  t.strictSame(others, [])
  t.match(row, {
    actor: 'ops',
    action: 'reconcile',
    quota_type: 'calls',
    reason: 'restored from a backup',
    request_id: null,
    before: { used: 28, reserved: 2 },
    after: { used: 5, reserved: 2 }
  })
  for (const { period_start } of [row.before!, row.after!])
    t.equal(new Date(period_start!).toISOString(), start, 'and which period')
})

onBoth('nothing is written, not even an audit row, if every counter is right', async (t, db) => {
  await declareTypes(db, { calls: { limit: 100 }, bytes: { limit: 100, kind: 'level' } })
  t.strictSame(await fixCounters(db, BY), [], 'there is no counter yet')
  await spend(db, { calls: 5, bytes: 5 })
  await hold(db, 'alice', { calls: 2 })
  await resetQuota(db, 'alice', 'calls', BY)
  const rows = () =>
    db.query('SELECT l::text FROM quota_limits l UNION ALL SELECT p::text FROM quota_periods p ORDER BY 1')
  const before = await rows()
  t.strictSame(await fixCounters(db, BY), [])
  t.strictSame(await rows(), before)
  await spoil(db, 'used_amount = 9', 'calls')
  t.equal((await fixCounters(db, BY)).length, 1)
  t.strictSame(await fixCounters(db, BY), [], 'a repaired counter is right')
  t.strictSame(
    (await auditOf(db, 'alice')).map(row => row.action),
    ['reset', 'reconcile']
  )
})

onBoth('a sum that no counter can hold is reported, its counter left alone, and the others repaired', async (t, db) => {
  await declareTypes(db, { a: { limit: -1 }, b: { limit: 10, kind: 'level' }, c: { limit: 10 } })
  await spend(db, { a: 5, b: 5, c: 5 })
  await hold(db, 'alice', { a: 1 })
  await spoil(db, 'used_amount = 7', 'c')
  await db.query(
    `UPDATE usage_logs u SET amount = CASE t.type_key WHEN 'a' THEN 9007199254740991 ELSE -3 END
       FROM quota_types t WHERE t.id = u.quota_type_id AND t.type_key <> 'c'`
  )
  const outcome = async () => (await fixCounters(db, BY)).map(fix => [fix.type, fix.usedAmount, fix.obstacle])
  const stuck = [
    ['a', 6, 'its log rows and reservations sum up to more than 2^53−1'],
    ['b', 5, 'its log rows sum up to less than 0']
  ]
  t.strictSame(await outcome(), [...stuck, ['c', 7, null]])
  t.strictSame(await outcome(), stuck)
  t.strictSame(await standing(db, 'alice', 'a'), [5, 1, -1])
  t.strictSame(await standing(db, 'alice', 'b'), [5, 0, 5])
  t.equal((await auditOf(db, 'alice')).length, 1)
  await db.query(
    "UPDATE usage_logs u SET amount = 9007199254740990 FROM quota_types t WHERE t.id = u.quota_type_id AND t.type_key = 'a'"
  )
  t.strictSame(await outcome(), [['a', 6, null], stuck[1]], 'a counter holds 2^53−1')
  await db.query('UPDATE usage_logs SET amount = 4')
  t.strictSame(
    await outcome(),
    [
      ['a', 9007199254740991, null],
      ['b', 5, null],
      ['c', 5, null]
    ],
    'repaired once the log is right'
  )
})
