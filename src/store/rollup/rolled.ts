// What is read instead of the whole log: the days that are added up and have no mark, and the gaps that the log must fill.
import { dateOf, ms, type Query } from '../database.ts'

export interface Span {
  start: Date
  /** Not included. */
  end: Date
}

/** SQL: the days of a time zone, each up to where it is added up. */
const rolledWithin = (timeZone: string, from: string, until: string): string => `
  SELECT r.day_start, r.rolled_until FROM quota_rollups r
   WHERE r.time_zone = ${timeZone} AND r.day_start >= ${from} AND r.day_end <= ${until} AND r.rolled_until > r.day_start
     AND NOT EXISTS (SELECT 1 FROM quota_usage_marks m WHERE m.at >= r.day_start AND m.at < r.rolled_until)`

const ROLLED = `
SELECT ${ms('day_start')} AS day_start, ${ms('rolled_until')} AS rolled_until
  FROM (${rolledWithin('$1', '$2::timestamptz', '$3::timestamptz')}) d ORDER BY day_start`

/** The days of a time zone within a span, each up to where it is added up. Must share a snapshot with what reads the log and the sums. */
export async function rolledDays(query: Query, timeZone: string, { start, end }: Span): Promise<Span[]> {
  const rows = await query<{ day_start: number; rolled_until: number }>(ROLLED, [
    timeZone,
    start.toISOString(),
    end.toISOString()
  ])
  return rows.map(row => ({ start: dateOf(row.day_start), end: dateOf(row.rolled_until) }))
}

/** SQL: whether an instant lies in one of the spans, whose edges are the values from `$first` on. */
export const spansIn = (instant: string, spans: readonly Span[], first: number): string => {
  const within = spans.map(
    (_, i) => `${instant} >= $${first + 2 * i}::timestamptz AND ${instant} < $${first + 1 + 2 * i}::timestamptz`
  )
  return within.length === 0 ? 'false' : `(${within.join(' OR ')})`
}

/** The parts of the span that are not in `rolled`. */
export function gapsOf({ start, end }: Span, rolled: readonly Span[]): Span[] {
  const starts = [start, ...rolled.map(day => day.end)]
  const ends = [...rolled.map(day => day.start), end]
  return starts.map((from, i) => ({ start: from, end: ends[i] as Date })).filter(gap => gap.start < gap.end)
}

/** The SQL of `rolledDays`, for use within a statement: `rolled (day_start, rolled_until)`. */
export const rolledTable = (timeZone: string, from: string, until: string): string =>
  `rolled AS MATERIALIZED (${rolledWithin(timeZone, from, until)}\n)`

/** SQL: the parts `(start, until)` of a span that are not in `rolled`. */
export const gapTable = (from: string, until: string): string => `
  SELECT g.start, g.until
    FROM (SELECT lag(b.rolled_until, 1, ${from}) OVER (ORDER BY b.day_start) AS start, b.day_start AS until
            FROM (SELECT day_start, rolled_until FROM rolled WHERE day_start >= ${from} AND rolled_until <= ${until} UNION ALL SELECT ${until}, NULL) b) g
   WHERE g.start < g.until`
