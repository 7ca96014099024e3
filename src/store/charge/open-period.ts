// Closes a user's ended periods and opens those that run now; the closed ones are kept.
import { openingOf, type PeriodRow } from '../calendar.ts'
import { type Database, dateOf, instantOf, ms } from '../database.ts'
import { ENDLESS, STILL_ENDLESS } from './end-periods.ts'
import { PATIENCE } from './of-many.ts'

const ENDED = `
SELECT l.quota_type_id, t.kind, t.period, u.time_zone, to_jsonb(u.period_anchor) #>> '{}' AS period_anchor,
       ${ms('l.period_start')} AS closing, ${ms('coalesce($2::timestamptz, now())')} AS at
  FROM quota_limits l JOIN quota_types t ON t.id = l.quota_type_id JOIN quota_users u ON u.id = l.user_id
 WHERE l.user_id = $1 AND l.period_end <= coalesce($2::timestamptz, now())`

/**
 * $1 the periods to close and what follows them; $2 their user, or nothing where they are of many. Closes a period if it is still the one that was
 * read, and opens the next: of 50 requests at a boundary one does it, and 49 find it done. Among many, a counter that somebody else has locked
 * is skipped. The next never begins inside the closed one, which it would overlap after a change of time zone, or in an hour cut short by a DST
 * night. The running period has a row already, but a counter inserted by hand may lack it, and one moved to an earlier period has left its own behind.
 */
export const rollOver = ({ ofOneUser }: { ofOneUser: boolean }): string => `
WITH ${ofOneUser ? '' : `${PATIENCE}, `}want AS MATERIALIZED (
  SELECT w.* FROM ${ofOneUser ? '' : 'patience, '}jsonb_to_recordset($1::text::jsonb)
    AS w (user_id text, quota_type_id int, closing timestamptz, period_start timestamptz, period_end timestamptz, is_endless boolean)
), ${ENDLESS}, ended AS MATERIALIZED (
  SELECT l.*, greatest(w.period_start, l.period_end) AS next_start, w.period_end AS next_end
    FROM want w ${ofOneUser ? CLOSING_OF_ONE : CLOSING_OF_MANY}
     AND (w.period_end IS NULL OR w.period_end > l.period_end) AND ${STILL_ENDLESS}
   ${ofOneUser ? 'ORDER BY l.quota_type_id FOR UPDATE OF l' : ''}
), closed AS (
  INSERT INTO quota_periods (user_id, quota_type_id, period_start, period_end, limit_amount, used_amount, closed_at)
  SELECT user_id, quota_type_id, period_start, period_end, limit_amount, used_amount, period_end FROM ended
  ON CONFLICT (user_id, quota_type_id, period_start) DO UPDATE
     SET period_end = excluded.period_end, limit_amount = excluded.limit_amount, used_amount = excluded.used_amount,
         closed_at = excluded.closed_at
), opened AS (
  INSERT INTO quota_periods (user_id, quota_type_id, period_start, period_end) SELECT user_id, quota_type_id, next_start, next_end FROM ended
  ON CONFLICT (user_id, quota_type_id, period_start) DO UPDATE
     SET period_end = excluded.period_end, limit_amount = excluded.limit_amount, used_amount = excluded.used_amount,
         closed_at = excluded.closed_at
), rolled AS (
  UPDATE quota_limits l
     SET used_amount = 0, period_start = e.next_start, period_end = e.next_end, updated_at = now()
    FROM ended e WHERE l.user_id = ${ofOneUser ? '$2' : 'ANY (ARRAY[e.user_id])'} AND l.quota_type_id = e.quota_type_id
)
SELECT ${STILL_ENDLESS} AS done`

const CLOSING_OF_ONE =
  'JOIN quota_limits l ON l.quota_type_id = w.quota_type_id AND l.period_start = w.closing WHERE l.user_id = $2'

/** Each is looked up by its key, even by a plan that was made while the table was empty. */
const CLOSING_OF_MANY = `CROSS JOIN LATERAL (
      SELECT * FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = w.quota_type_id AND q.period_start = w.closing
         FOR UPDATE SKIP LOCKED
    ) l WHERE true`

const ROLL = rollOver({ ofOneUser: true })

interface EndedRow extends PeriodRow {
  quota_type_id: number
  closing: number
}

/** Rolls over every period of this user that has ended by `at`, or by the database's clock. */
export async function openPeriods(db: Database, userId: string, at?: Date): Promise<void> {
  for (;;) {
    const ended = await db.query<EndedRow>(ENDED, [userId, instantOf(at)])
    if (ended.length === 0) return
    const want = ended.map(row => ({
      quota_type_id: row.quota_type_id,
      closing: dateOf(row.closing),
      ...openingOf(row)
    }))
    const [rolled] = await db.query<{ done: boolean }>(ROLL, [JSON.stringify(want), userId])
    if (rolled?.done) return
    // A type that did not reset when it was read now does.
  }
}
