// What each user used of each quota type in a month of the user's own time zone.
import { monthOf, type Period } from '../quota/period.ts'
import { calendarOf, ofUser } from './calendar.ts'
import type { Database } from './database.ts'
import { heldOf } from './held.ts'
import { gapTable, rolledTable } from './rollup/rolled.ts'

/** One user and quota type in which something was used or denied. */
export interface UsageLine {
  userId: string
  /** The quota type's key. */
  type: string
  unit: string
  /** Charged, without what is still held; of a level what was stored when the month ended. */
  used: number
  /** The most that might be used; where several periods began in the month, all of them together. −1: unlimited. */
  limit: number
  /** Charges: rows of the usage log. */
  calls: number
  denials: number
}

/** Users of one statement. */
const BATCH = 500

const USERS = 'SELECT id, time_zone FROM quota_users WHERE id > $1 ORDER BY id LIMIT $2'

/**
 * Usage belongs to the period that admitted it, and a period to the month that it begins in: its figures are those that the user
 * was held to, and two that a reset made of one add up. A week that began last month is last month's. Where periods are longer than
 * a month, and of a level, the month is cut out of the log. The running period's figures are in the counter: its own row is empty.
 *
 * What a level was when the month ended is what it is now without the rows since: the sum of all before gives the same, and reads
 * more of the log each month. The limit is then that of the last period that began before the month's end. Each sum stands below its
 * counter, so that it is a range of an index, however large the log is: 100 000 users with 6 million log rows took a minute. Of the log it reads
 * what is not added up by days of UTC. Denials are counted by the hour of UTC: one that a zone's midnight cuts counts in both months.
 */
const REPORT = `
WITH want AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS w (user_id text, month_start timestamptz, month_end timestamptz)
), counter AS (
  SELECT l.*, w.month_start, w.month_end, t.type_key, t.unit, t.kind,
         t.kind = 'flow' AND t.period IN ('hour', 'day', 'week', 'month') AS restarts
    FROM want w JOIN quota_limits l ON l.user_id = w.user_id JOIN quota_types t ON t.id = l.quota_type_id
), spanned AS MATERIALIZED (
  SELECT c.*, begun.used AS begun_used, begun.granted AS begun_granted, begun.first IS NOT NULL AS from_periods,
         coalesce(begun.first, c.month_start) AS first, coalesce(begun.last, c.month_end) AS last
    FROM counter c
   CROSS JOIN LATERAL (
     SELECT sum(p.used_amount - ${heldOf('p')}) AS used,
            CASE WHEN bool_or(p.limit_amount < 0) THEN -1 ELSE sum(p.limit_amount) END AS granted,
            min(p.period_start) AS first, max(coalesce(p.period_end, 'infinity')) AS last
       FROM (
         SELECT q.user_id, q.quota_type_id, q.period_start, q.period_end, q.limit_amount, q.used_amount
           FROM quota_periods q
          WHERE q.user_id = c.user_id AND q.quota_type_id = c.quota_type_id AND q.closed_at IS NOT NULL
            AND q.period_start >= c.month_start AND q.period_start < c.month_end
         UNION ALL
         SELECT c.user_id, c.quota_type_id, c.period_start, c.period_end, c.limit_amount, c.used_amount
          WHERE c.period_start >= c.month_start AND c.period_start < c.month_end
       ) p
      WHERE c.restarts
   ) begun
), span AS MATERIALIZED (
  SELECT DISTINCT first, last FROM spanned
), ${rolledTable("'UTC'", '(SELECT min(first) FROM span)', '(SELECT max(last) FROM span)')}, gap AS MATERIALIZED (
  SELECT s.first, s.last, g.start, g.until FROM span s CROSS JOIN LATERAL (${gapTable('s.first', 's.last')}) g
), line AS (
  SELECT c.user_id, c.type_key, c.unit,
         CASE WHEN c.from_periods THEN c.begun_used
              WHEN c.kind = 'level' THEN c.used_amount - ${heldOf('c')} - since.amount
              ELSE log.amount END AS used,
         CASE WHEN c.from_periods THEN c.begun_granted ELSE coalesce(former.limit_amount, c.limit_amount) END AS granted,
         log.calls, denied.denials, c.from_periods OR NOT c.restarts AS counts
    FROM spanned c
   CROSS JOIN LATERAL (
     SELECT coalesce(sum(s.calls), 0) AS calls, coalesce(sum(s.amount), 0) AS amount
       FROM (
         SELECT sum(d.calls) AS calls, sum(d.usage) AS amount
           FROM quota_usage_days d JOIN rolled r ON r.day_start = d.day_start
          WHERE d.user_id = c.user_id AND d.quota_type_id = c.quota_type_id AND d.time_zone = 'UTC'
            AND d.day_start >= c.first AND r.rolled_until <= c.last
         UNION ALL
         SELECT count(*), sum(u.amount)
           FROM gap g JOIN usage_logs u ON u.user_id = c.user_id AND u.created_at >= g.start AND u.created_at < g.until
          WHERE g.first = c.first AND g.last = c.last AND u.quota_type_id = c.quota_type_id
       ) s
   ) log
   CROSS JOIN LATERAL (
     SELECT coalesce(sum(u.amount), 0) AS amount
       FROM usage_logs u
      WHERE c.kind = 'level' AND u.user_id = c.user_id AND u.quota_type_id = c.quota_type_id AND u.created_at >= c.month_end
   ) since
   CROSS JOIN LATERAL (
     SELECT coalesce(sum(d.denials), 0) AS denials
       FROM quota_denials d
      WHERE d.user_id = c.user_id AND d.quota_type_id = c.quota_type_id
        AND d.hour >= date_trunc('hour', c.first, 'UTC') AND d.hour < c.last
   ) denied
    LEFT JOIN LATERAL (
     SELECT q.limit_amount
       FROM quota_periods q
      WHERE c.period_start >= c.month_end AND q.user_id = c.user_id AND q.quota_type_id = c.quota_type_id
        AND q.closed_at IS NOT NULL AND q.period_start < c.month_end
      ORDER BY q.period_start DESC LIMIT 1
   ) former ON true
)
SELECT user_id, type_key, unit, used, granted, calls, denials
  FROM line WHERE counts AND (used <> 0 OR calls > 0 OR denials > 0)
 ORDER BY user_id, type_key`

interface UserRow {
  id: string
  time_zone: string
}

interface LineRow {
  user_id: string
  type_key: string
  unit: string
  used: number
  granted: number
  calls: number
  denials: number
}

/**
 * The lines of a month such as `2026-11`, by user id and type key. A batch of users at a time, each as it is at one moment: however
 * many users there are, no more is kept. Rejects with FST_QUOTA_CALENDAR where a user's time zone is none.
 */
export async function* reportUsage(db: Database, month: string): AsyncGenerator<UsageLine> {
  let after = ''
  for (;;) {
    const users = await db.query<UserRow>(USERS, [after, BATCH])
    const want = users.map(user => {
      const { start, end } = monthOfUser(month, user)
      return { user_id: user.id, month_start: start, month_end: end }
    })
    yield* (await db.query<LineRow>(REPORT, [JSON.stringify(want)])).map(lineOf)
    const last = users.at(-1)
    if (last === undefined || users.length < BATCH) return
    after = last.id
  }
}

/** The month that it is now, in UTC. */
export async function currentMonth(db: Database): Promise<string> {
  const [row] = await db.query<{ month: string }>("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM') AS month")
  return row!.month
}

const monthOfUser = (month: string, { id, time_zone }: UserRow): Period =>
  ofUser(id, () => monthOf(month, calendarOf({ time_zone, period_anchor: null }).timeZone))

const lineOf = (row: LineRow): UsageLine => ({
  userId: row.user_id,
  type: row.type_key,
  unit: row.unit,
  used: Number(row.used),
  limit: Number(row.granted),
  calls: Number(row.calls),
  denials: Number(row.denials)
})
