// Log rows that are too old are deleted, except those whose sum a counter must still equal.
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { charge } from '../../../src/store/charge/charge.ts'
import type { Database } from '../../../src/store/database.ts'
import { deleteUser } from '../../../src/store/operator/delete-user.ts'
import { findDiscrepancies } from '../../../src/store/operator/reconcile.ts'
import { resetQuota } from '../../../src/store/operator/reset-quota.ts'
import { pruneDenials, pruneUsage } from '../../../src/store/upkeep/prune-usage.ts'
import { both } from '../../fixtures/both.ts'
import { BY, wanted } from '../../fixtures/charges.ts'

const onBoth = await both(t)
const day = (date: string) => new Date(`2026-${date}T12:00:00Z`)

async function useAt(db: Database, userId: string, type: string, at?: Date) {
  const [want] = await wanted(db, { [type]: 1 })
  const order = { userId, charges: [{ ...want!, id: v7() }], at, endpoint: '/a', metadata: {} }
  const outcome = await charge(db, { ...order, idempotencyKey: null })
  if (!outcome.admitted) throw new Error('denied')
}

async function use(db: Database, userId: string, type: string, ...dates: string[]) {
  for (const date of dates) await useAt(db, userId, type, day(date))
}

const left = async (db: Database) =>
  (
    await db.query<{ line: string }>(
      `SELECT user_id || ' ' || type_key || ' ' || to_char(u.created_at AT TIME ZONE 'UTC', 'MM-DD') AS line
         FROM usage_logs u JOIN quota_types t ON t.id = u.quota_type_id ORDER BY 1`
    )
  ).map(row => row.line)

async function declared(db: Database) {
  await declareTypes(db, {
    months: { limit: 100, period: 'month' },
    ever: { limit: 100, period: 'never' },
    stored: { limit: 100, kind: 'level' }
  })
}

onBoth('deletes old log rows of closed periods, and keeps those of running ones and of levels', async (t, db) => {
  await declared(db)
  await use(db, 'alice', 'months', '01-10', '02-10', '02-20', '03-05')
  await use(db, 'alice', 'ever', '01-10', '03-05')
  await use(db, 'alice', 'stored', '01-10', '03-05')
  const { deleted, next } = await pruneUsage(db, day('02-15'))
  t.strictSame([deleted, next], [2, undefined])
  t.strictSame(await left(db), [
    'alice ever 01-10',
    'alice ever 03-05',
    'alice months 02-20',
    'alice months 03-05',
    'alice stored 01-10',
    'alice stored 03-05'
  ])
  t.strictSame([...(await findDiscrepancies(db))], [], 'a period whose log was pruned is not reported as wrong')
  const used = await db.query<{ used_amount: number }>(
    'SELECT used_amount FROM quota_periods WHERE closed_at IS NOT NULL ORDER BY period_start'
  )
  t.strictSame(
    used.map(row => Number(row.used_amount)),
    [1, 2, 1],
    'the usage of pruned periods stays known, and the last one is closed'
  )
  t.strictSame((await pruneUsage(db, day('02-15'))).deleted, 0)
})

onBoth('deletes no log row of a running period, however old it is', async (t, db) => {
  await declared(db)
  await use(db, 'alice', 'ever', '01-10', '02-10')
  t.equal((await pruneUsage(db, day('12-01'))).deleted, 0)
  t.strictSame(await left(db), ['alice ever 01-10', 'alice ever 02-10'])
})

onBoth(
  'assigns rows to periods exactly at their edges, and keeps those of the running period apart from closed ones',
  async (t, db) => {
    await declared(db)
    for (const at of ['2026-01-01', '2026-02-01', '2026-03-01']) await useAt(db, 'alice', 'months', new Date(at))
    await useAt(db, 'alice', 'ever', new Date('2026-01-10'))
    await resetQuota(db, 'alice', 'ever', BY)
    await useAt(db, 'alice', 'ever')
    t.equal((await pruneUsage(db, new Date('2026-02-01'))).deleted, 2)
    t.strictSame((await left(db)).slice(1), ['alice months 02-01', 'alice months 03-01'])
    const pruned = await db.query('SELECT 1 FROM quota_periods WHERE pruned_at IS NOT NULL')
    t.equal(pruned.length, 2, 'the first month, and what was reset')
    t.equal((await pruneUsage(db, new Date(Date.now() + 86_400_000))).deleted, 2)
    t.equal((await left(db)).length, 1, 'the charge of the running period')
    t.strictSame([...(await findDiscrepancies(db))], [])
  }
)

onBoth('says of no other period that its log was pruned, and keeps the time of the first deletion', async (t, db) => {
  await declareTypes(db, { months: { limit: 100, period: 'month' }, others: { limit: 100, period: 'month' } })
  await use(db, 'alice', 'months', '01-05', '01-06', '02-10')
  // Closed as well, but later in the month than what is deleted.
  await use(db, 'alice', 'others', '01-20', '02-10')
  await use(db, 'bob', 'months', '01-20', '02-10')
  const pruned = async () =>
    await db.query<{ line: string; at: number }>(
      `SELECT user_id || ' ' || type_key || ' ' || to_char(period_start AT TIME ZONE 'UTC', 'MM-DD') AS line,
              (date_part('epoch', pruned_at) * 1000)::bigint AS at
         FROM quota_periods p JOIN quota_types t ON t.id = p.quota_type_id WHERE pruned_at IS NOT NULL`
    )
  t.equal((await pruneUsage(db, day('01-06'))).deleted, 1)
  const [first, ...others] = await pruned()
  t.equal(first!.line, 'alice months 01-01')
  t.strictSame(others, [])
  await sleep(20)
  t.equal((await pruneUsage(db, day('01-07'))).deleted, 1)
  t.strictSame([...(await pruned())], [first])
})

onBoth('closes the last period of users who stayed away, and deletes its log rows, too', async (t, db) => {
  await declared(db)
  await use(db, 'alice', 'months', '01-10', '02-10')
  await use(db, 'bob', 'months', '01-10')
  await db.query("UPDATE quota_users SET time_zone = 'Mars/Base' WHERE id = 'bob'")
  const { deleted, errors } = await pruneUsage(db, day('05-01'))
  t.equal(deleted, 2)
  t.strictSame(await left(db), ['bob months 01-10'], 'what cannot be closed is kept, and holds up nobody else')
  t.match(errors, [{ code: 'FST_QUOTA_CALENDAR' }])
  const [limit] = await db.query<{ used: number }>(
    "SELECT used_amount::int AS used FROM quota_limits l JOIN quota_types t ON t.id = l.quota_type_id WHERE user_id = 'alice' AND type_key = 'months'"
  )
  t.equal(limit!.used, 0)
  t.strictSame([...(await findDiscrepancies(db))], [])
})

onBoth('deletes at most a thousand rows per step, and continues after those that it kept', async (t, db) => {
  await declared(db)
  await use(db, 'alice', 'months', '01-01', '02-10')
  await use(db, 'bob', 'ever', '01-02')
  const fill = (userId: string, type: string, from: string) =>
    db.query(
      `INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
       SELECT $1, id, 0, $3::timestamptz + n * interval '1 second' FROM quota_types CROSS JOIN generate_series(1, 1500) n WHERE type_key = $2`,
      [userId, type, from]
    )
  await fill('bob', 'ever', '2026-01-03T00:00:00Z')
  await fill('alice', 'months', '2026-01-04T00:00:00Z')
  const steps: number[] = []
  let after: Awaited<ReturnType<typeof pruneUsage>>['next']
  do {
    const step = await pruneUsage(db, day('02-01'), after)
    steps.push(step.deleted)
    after = step.next
  } while (after !== undefined)
  t.strictSame(steps, [1, 498, 1000, 2])
  t.equal((await left(db)).filter(line => line.startsWith('alice')).length, 1)
})

onBoth('deletes old denials, and old log rows of deleted users', async (t, db) => {
  await declared(db)
  await use(db, 'alice', 'ever', '01-10')
  await db.query(
    `INSERT INTO quota_denials (user_id, quota_type_id, hour, denials)
     SELECT user_id, quota_type_id, hour::timestamptz, 1 FROM quota_limits CROSS JOIN unnest(ARRAY['2026-01-10T10:00:00Z', '2026-03-10T10:00:00Z']) hour WHERE used_amount > 0`
  )
  t.equal(await pruneDenials(db, day('02-01')), 1)
  t.equal(await pruneDenials(db, day('02-01')), 0)
  // As psql or a server of an older version would do it: the log has no foreign key.
  await db.query("DELETE FROM quota_users WHERE id = 'alice'")
  t.equal((await pruneUsage(db, day('02-01'))).deleted, 1)
  t.notOk(await deleteUser(db, 'alice', { actor: 'test', reason: null, requestId: null }))
})
