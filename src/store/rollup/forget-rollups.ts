// Forgets what was added up: where the log was changed since, where nobody looks back to it, or all of it.
import type { Database, Query } from '../database.ts'
import { alone, aloneAtLast } from './alone.ts'
import type { Span } from './rolled.ts'

/** As far as statistics look back, plus days for what lies between two time zones. */
const MOST_DAYS = 368

/** A day with a mark becomes as if it had never been added up. */
const FORGET = `
WITH mark AS (
  DELETE FROM quota_usage_marks RETURNING at
), changed AS MATERIALIZED (
  SELECT r.time_zone, r.day_start, r.day_end FROM quota_rollups r
   WHERE EXISTS (SELECT 1 FROM mark m WHERE m.at >= r.day_start AND m.at < r.rolled_until)
), days AS (
  DELETE FROM quota_usage_days d USING changed c WHERE d.time_zone = c.time_zone AND d.day_start = c.day_start
), totals AS (
  DELETE FROM quota_usage_totals t USING changed c WHERE t.time_zone = c.time_zone AND t.start >= c.day_start AND t.start < c.day_end
)
UPDATE quota_rollups r SET rolled_until = r.day_start FROM changed c WHERE r.time_zone = c.time_zone AND r.day_start = c.day_start`

/** Deletes the marks, and the sums that they concern. */
export const forgetMarked = (db: Database): Promise<boolean> => alone(db, query => query(FORGET))

const FORGET_DAY = `
WITH days AS (
  DELETE FROM quota_usage_days WHERE time_zone = $1 AND day_start = $2::timestamptz
)
DELETE FROM quota_usage_totals WHERE time_zone = $1 AND start >= $2::timestamptz AND start < $3::timestamptz`

/** Forgets the sums that a day or window may have before it is added up: somebody may have emptied `quota_rollups`, and nothing else. */
export const forgetSums = (query: Query, timeZone: string, { start, end }: Span): Promise<unknown> =>
  query(FORGET_DAY, [timeZone, start.toISOString(), end.toISOString()])

/** $1 zone, $2 and $3 the span that is to remain alone. */
const FORGET_OTHERS = `
WITH other AS (
  DELETE FROM quota_rollups r
   WHERE r.time_zone = $1 AND r.day_start < $3::timestamptz AND r.day_end > $2::timestamptz
     AND (r.day_start <> $2::timestamptz OR r.day_end <> $3::timestamptz)
  RETURNING r.day_start, r.day_end
), days AS (
  DELETE FROM quota_usage_days d USING other o WHERE d.time_zone = $1 AND d.day_start = o.day_start
)
DELETE FROM quota_usage_totals t USING other o WHERE t.time_zone = $1 AND t.start >= o.day_start AND t.start < o.day_end`

/** Forgets what overlaps a day or window without being it: yesterday's window, or days as a time zone's former rules cut them. */
export const forgetOthers = (query: Query, timeZone: string, { start, end }: Span): Promise<unknown> =>
  query(FORGET_OTHERS, [timeZone, start.toISOString(), end.toISOString()])

/** Forgets days that no statistic looks back to, and windows that are no longer continued: each covers as many days as somebody once asked for. */
const PRUNE = `
WITH old AS (
  DELETE FROM quota_rollups r
   WHERE r.day_end < now() - CASE WHEN r.day_end - r.day_start > interval '26 hours' THEN interval '2 days' ELSE interval '${MOST_DAYS} days' END
  RETURNING r.time_zone, r.day_start, r.day_end
), days AS (
  DELETE FROM quota_usage_days d USING old o WHERE d.time_zone = o.time_zone AND d.day_start = o.day_start
)
DELETE FROM quota_usage_totals t USING old o WHERE t.time_zone = o.time_zone AND t.start >= o.day_start AND t.start < o.day_end`

export const pruneRollups = (db: Database): Promise<boolean> => alone(db, query => query(PRUNE))

/** Forgets all sums: for when the log was changed by somebody who leaves no marks. */
export const forgetRollups = (db: Database): Promise<void> =>
  aloneAtLast(db, async query => {
    for (const table of ['quota_rollups', 'quota_usage_days', 'quota_usage_totals']) await query(`DELETE FROM ${table}`)
  })
