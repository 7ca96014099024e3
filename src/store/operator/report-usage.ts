// What each user used of each quota type in a month of the user's own time zone.
import { monthOf, type Period } from '../../quota/period.ts'
import { calendarOf, ofUser } from '../calendar.ts'
import { heldOf } from '../charge/held.ts'
import type { Database } from '../database.ts'
import { gapTable, rolledTable } from '../rollup/rolled.ts'

/** One user and quota type in which something was used or denied. */
export interface UsageLine {
  userId: string
  /** The quota type's key. */
  type: string
  unit: string
  /** Charged, without what is still held; for a level, what was stored when the month ended. */
  used: number
  /** The most that could be used; where several periods began in the month, in all of them together. −1: unlimited. */
  limit: number
  /** Charges: rows of the usage log. */
  calls: number
  denials: number
}

/** Users per statement. */
const BATCH = 500

const USERS = 'SELECT id, time_zone FROM quota_users WHERE id > $1 ORDER BY id LIMIT $2'

/** Longer than any month, even one with an extra hour. */
const SHORT = '32 days'

/**
 * The parts of a counter's line, one after the other, each where it is not empty: the month's log where no short period began, or before
 * the first that did; those periods; the log after them. What an earlier period admitted is in none.
 */
const PARTS = 'VALUES (c.log_start, c.log_until, true), (c.first, c.last, false), (c.rest_start, c.month_end, true)'

/**
 * Usage belongs to the period that admitted it, and a period to the month in which it begins: its figures are those that the user was held
 * to, and two periods that a reset made of one add up. A week that began last month is last month's. What a period longer than a month
 * admitted is cut out of the log, and so is a level, and what is in no period. A period's length is its own, whatever its type's is by now.
 * The running period's figures are in the counter: its own row is empty.
 *
 * A level at the end of the month is the present one without the rows since: the sum of all rows before gives the same, but reads more of
 * the log each month. Where no period began in the month, the limit is that of the last one before. Each sum is made per counter, so that
 * it is a range of an index, however large the log is: 100 000 users with 6 million log rows took a minute. Of the log it reads what is not
 * added up by days of UTC. Denials are counted by the hour of UTC: an hour that a zone's midnight cuts counts in both months.
 */
const REPORT = `
WITH want AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS w (user_id text, month_start timestamptz, month_end timestamptz)
), counter AS (
  SELECT l.*, w.month_start, w.month_end, t.type_key, t.unit, t.kind
    FROM want w JOIN quota_limits l ON l.user_id = w.user_id JOIN quota_types t ON t.id = l.quota_type_id
), spanned AS MATERIALIZED (
  SELECT c.*, b.used AS begun_used, b.granted AS begun_granted, b.first, b.last,
         CASE WHEN b.first IS NULL THEN coalesce(b.taken_until, c.month_start) WHEN b.follows_long THEN c.month_start END AS log_start,
         coalesce(b.first, c.month_end) AS log_until, CASE WHEN b.is_followed THEN b.last END AS rest_start
    FROM counter c
   CROSS JOIN LATERAL (
     SELECT sum(p.used_amount - ${heldOf('p')}) FILTER (WHERE p.is_short AND p.is_begun) AS used,
            CASE WHEN bool_or(p.limit_amount < 0) FILTER (WHERE p.is_begun) THEN -1 ELSE sum(p.limit_amount) FILTER (WHERE p.is_begun) END AS granted,
            min(p.period_start) FILTER (WHERE p.is_short AND p.is_begun) AS first, max(p.period_end) FILTER (WHERE p.is_short AND p.is_begun) AS last,
            max(p.period_end) FILTER (WHERE p.is_short AND NOT p.is_begun) AS taken_until,
            bool_or(NOT p.is_short AND NOT p.is_begun) AS follows_long, bool_or(NOT p.is_short AND p.is_begun) AS is_followed
       FROM (
         SELECT o.*, o.period_start >= c.month_start AS is_begun, coalesce(o.period_end - o.period_start <= interval '${SHORT}', false) AS is_short
           FROM (
             SELECT q.user_id, q.quota_type_id, q.period_start, q.period_end, q.limit_amount, q.used_amount
               FROM quota_periods q
              WHERE q.user_id = c.user_id AND q.quota_type_id = c.quota_type_id AND q.closed_at IS NOT NULL AND q.period_start < c.month_end
                AND q.period_start >= (SELECT coalesce(max(e.period_start), c.month_start) FROM quota_periods e
                                        WHERE e.user_id = c.user_id AND e.quota_type_id = c.quota_type_id AND e.closed_at IS NOT NULL
                                          AND e.period_start < c.month_start)
             UNION ALL
             SELECT c.user_id, c.quota_type_id, c.period_start, c.period_end, c.limit_amount, c.used_amount WHERE c.period_start < c.month_end
           ) o
          WHERE o.period_end IS NULL OR o.period_end > c.month_start
       ) p
      WHERE c.kind = 'flow'
   ) b
), span AS MATERIALIZED (
  SELECT DISTINCT s.first, s.last FROM spanned c CROSS JOIN LATERAL (${PARTS}) s (first, last, is_cut) WHERE s.first < s.last
), ${rolledTable("'UTC'", '(SELECT min(first) FROM span)', '(SELECT max(last) FROM span)')}, gap AS MATERIALIZED (
  SELECT s.first, s.last, g.start, g.until FROM span s CROSS JOIN LATERAL (${gapTable('s.first', 's.last')}) g
), line AS (
  SELECT c.user_id, c.type_key, c.unit,
         CASE WHEN c.kind = 'level' THEN c.used_amount - ${heldOf('c')} - since.amount ELSE coalesce(c.begun_used, 0) + log.amount END AS used,
         coalesce(c.begun_granted, former.limit_amount, c.limit_amount) AS granted, log.calls, denied.denials
    FROM spanned c
   CROSS JOIN LATERAL (
     SELECT coalesce(sum(s.calls), 0) AS calls, coalesce(sum(s.amount) FILTER (WHERE p.is_cut), 0) AS amount
       FROM (${PARTS}) p (first, last, is_cut)
      CROSS JOIN LATERAL (
         SELECT sum(d.calls) AS calls, sum(d.usage) AS amount
           FROM quota_usage_days d JOIN rolled r ON r.day_start = d.day_start
          WHERE d.user_id = c.user_id AND d.quota_type_id = c.quota_type_id AND d.time_zone = 'UTC'
            AND d.day_start >= p.first AND r.rolled_until <= p.last
         UNION ALL
         SELECT count(*), sum(u.amount)
           FROM gap g JOIN usage_logs u ON u.user_id = c.user_id AND u.created_at >= g.start AND u.created_at < g.until
          WHERE g.first = p.first AND g.last = p.last AND u.quota_type_id = c.quota_type_id
       ) s
      WHERE p.first < p.last
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
        AND d.hour >= date_trunc('hour', coalesce(c.log_start, c.first), 'UTC')
        AND d.hour < CASE WHEN c.rest_start IS NULL THEN coalesce(c.last, c.month_end) ELSE c.month_end END
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
  FROM line WHERE used <> 0 OR calls > 0 OR denials > 0
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
 * The lines of a month such as `2026-11`, by user id and type key. Users are read in batches, each as it is at one moment: however many
 * users there are, no more is kept. Rejects with FST_QUOTA_CALENDAR where a user's time zone is invalid.
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

/** The current month, in UTC. */
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
