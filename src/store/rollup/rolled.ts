// What a statement reads instead of the log: the days that are added up and have no mark, and the gaps that the log must fill.
import { IS_WATCHED } from './watch-usage.ts'

/**
 * SQL of a table `rolled (day_start, rolled_until)`: days of a time zone within a span. In one statement with what reads the log and the
 * sums they are one moment's.
 */
export const rolledWithin = (timeZone: string, from: string, until: string): string => `
rolled AS MATERIALIZED (
  SELECT r.day_start, r.rolled_until FROM quota_rollups r
   WHERE r.time_zone = ${timeZone} AND r.day_start >= ${from} AND r.day_end <= ${until} AND r.rolled_until > r.day_start AND ${IS_WATCHED}
     AND NOT EXISTS (SELECT 1 FROM quota_usage_marks m WHERE m.at >= r.day_start AND m.at < r.rolled_until)
)`

/** SQL: the parts `(start, until)` of a span that are not in `rolled`. */
export const gapsOf = (from: string, until: string): string => `
  SELECT g.start, g.until
    FROM (SELECT lag(b.rolled_until, 1, ${from}) OVER (ORDER BY b.day_start) AS start, b.day_start AS until
            FROM (SELECT day_start, rolled_until FROM rolled WHERE day_start >= ${from} AND rolled_until <= ${until} UNION ALL SELECT ${until}, NULL) b) g
   WHERE g.start < g.until`
