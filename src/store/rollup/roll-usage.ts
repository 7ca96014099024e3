// Adds up the usage log by day and hour, so that statistics need not read it. The sums stay some minutes behind, and are exact: a change in
// a time that is already added up leaves a mark, and its day is read from the log until it is added up again.
import { type Series, seriesOf } from '../../quota/series.ts'
import { instantArray } from '../arrays.ts'
import { type Database, dateOf, ms } from '../database.ts'
import { alone } from './alone.ts'
import { forgetOthers, forgetSums } from './forget-rollups.ts'
import type { SafeTime } from './safe-time.ts'

/** As far as statistics look back, plus a day for what lies between two time zones. */
const MOST_DAYS = 366
/** A day with fewer rows is read from the log in half a millisecond. */
const FEWEST_ROWS = 1_000

interface Day {
  start: Date
  end: Date
  hours: Date[]
}

const OLDEST = `SELECT ${ms('min(created_at)')} AS oldest FROM usage_logs`
const KNOWN = `SELECT ${ms('day_start')} AS day_start, ${ms('day_end')} AS day_end, ${ms('rolled_until')} AS rolled_until FROM quota_rollups WHERE time_zone = $1`

interface Rolling {
  /** Stops after the current day. */
  signal?: { readonly aborted: boolean }
  /** Days with fewer rows are read from the log just as fast. */
  fewest?: number
}

/** Adds up what is safe and not added up yet, a day at a time, the newest first. False: not all is done, because another process was at it or `signal` said stop. */
export async function rollUsage(
  db: Database,
  timeZone: string,
  safe: SafeTime,
  { signal, fewest = FEWEST_ROWS }: Rolling = {}
): Promise<boolean> {
  const [log] = await db.query<{ oldest: number | null }>(OLDEST)
  if (typeof log?.oldest !== 'number') return true
  let isAll = true
  let rolled = 0
  for (const { day, until } of await daysToRoll(db, timeZone, daysUntil(safe.until, log.oldest, timeZone), safe)) {
    if (signal?.aborted) return false
    const isWorthIt = day.isBegun || (await countRows(db, day, fewest)) >= fewest
    if (!isWorthIt) continue
    if (await rollDay(db, timeZone, day, until)) rolled += 1
    else isAll = false
  }
  // Else a plan for an empty table is used until autovacuum runs, and that took four times as long.
  if (rolled > 1) await db.query('ANALYZE quota_usage_days')
  return isAll
}

/** The days of which something is safe and not added up yet. */
async function daysToRoll(db: Database, timeZone: string, days: readonly Day[], safe: SafeTime) {
  const known = await db.query<{ day_start: number; day_end: number; rolled_until: number }>(KNOWN, [timeZone])
  const rolledOf = new Map(known.map(day => [`${day.day_start} ${day.day_end}`, day.rolled_until]))
  return days.flatMap(day => {
    const [start, end] = [day.start.getTime(), day.end.getTime()]
    const rolled = rolledOf.get(`${start} ${end}`)
    const until = Math.min(end, lastHour(day.hours, safe.until))
    return (rolled ?? start) < until ? [{ day: { ...day, isBegun: rolled !== undefined }, until: new Date(until) }] : []
  })
}

async function countRows(db: Database, { start, end }: Day, most: number): Promise<number> {
  const [row] = await db.query<{ n: number }>(
    'SELECT count(*)::int AS n FROM (SELECT 1 FROM usage_logs WHERE created_at >= $1::timestamptz AND created_at < $2::timestamptz LIMIT $3) r',
    [start.toISOString(), end.toISOString(), most]
  )
  return row!.n
}

/** The newest first. */
function daysUntil(until: number, oldest: number, timeZone: string): Day[] {
  const days = Math.min(Math.ceil((until - oldest) / 86_400_000) + 1, MOST_DAYS)
  if (days < 1) return []
  const at = new Date(until)
  const byDay = seriesOf('day', days, timeZone, at)
  const byHour = seriesOf('hour', days, timeZone, at)
  return byDay.starts.map((start, i) => dayOf(start, byDay.starts[i + 1] ?? byDay.end, byHour)).reverse()
}

const dayOf = (start: Date, end: Date, { starts }: Series): Day => ({
  start,
  end,
  hours: starts.filter(hour => hour >= start && hour < end)
})

/** Where the last whole hour ends before an instant. */
const lastHour = (hours: readonly Date[], until: number): number =>
  until >= (hours.at(-1) as Date).getTime() + 3_600_000
    ? Number.POSITIVE_INFINITY
    : Math.max(...hours.map(hour => hour.getTime()).filter(hour => hour <= until))

const BEGIN_DAY = `
INSERT INTO quota_rollups (time_zone, day_start, day_end, rolled_until) VALUES ($1, $2::timestamptz, $3::timestamptz, $2::timestamptz)
ON CONFLICT (time_zone, day_start) DO UPDATE SET day_end = excluded.day_end
RETURNING ${ms('rolled_until')} AS rolled_until`

/**
 * $1 zone, $2 the day, $3 and $4 the span that is added, $5 the starts of the day's hours: a SELECT, so that it is read once, and not for each row.
 */
const ROLL = `
WITH used AS MATERIALIZED (
  SELECT width_bucket(u.created_at, (SELECT $5::text::timestamptz[])) AS n, u.quota_type_id, u.user_id, sum(u.amount) AS usage, count(*) AS calls
    FROM usage_logs u
   WHERE u.created_at >= $3::timestamptz AND u.created_at < $4::timestamptz
   GROUP BY 1, 2, 3
), days AS (
  INSERT INTO quota_usage_days AS d (time_zone, day_start, quota_type_id, user_id, usage, calls)
  SELECT $1, $2::timestamptz, quota_type_id, user_id, sum(usage), sum(calls) FROM used GROUP BY quota_type_id, user_id
  ON CONFLICT (user_id, quota_type_id, time_zone, day_start)
  DO UPDATE SET usage = d.usage + excluded.usage, calls = d.calls + excluded.calls
), hours AS (
  INSERT INTO quota_usage_totals (time_zone, per, start, quota_type_id, usage, calls, users)
  SELECT $1, 'hour', ((SELECT $5::text::timestamptz[]))[n], quota_type_id, sum(usage), sum(calls), count(*) FROM used GROUP BY n, quota_type_id
)
UPDATE quota_rollups SET rolled_until = $4::timestamptz WHERE time_zone = $1 AND day_start = $2::timestamptz`

/** The totals of a day or a window. */
export const TOTAL = `
INSERT INTO quota_usage_totals (time_zone, per, start, quota_type_id, usage, calls, users)
SELECT $1, 'day', $2::timestamptz, quota_type_id, sum(usage), sum(calls), count(*)
  FROM quota_usage_days WHERE time_zone = $1 AND day_start = $2::timestamptz GROUP BY quota_type_id
ON CONFLICT (time_zone, per, start, quota_type_id) DO UPDATE SET usage = excluded.usage, calls = excluded.calls, users = excluded.users`

const rollDay = (db: Database, timeZone: string, day: Day, until: Date): Promise<boolean> =>
  alone(db, async query => {
    const [start, end] = [day.start.toISOString(), day.end.toISOString()]
    await forgetOthers(query, timeZone, day)
    const [rolled] = await query<{ rolled_until: number }>(BEGIN_DAY, [timeZone, start, end])
    const from = dateOf(rolled!.rolled_until)
    if (from >= until) return
    if (from.getTime() === day.start.getTime()) await forgetSums(query, timeZone, day)
    await query(ROLL, [timeZone, start, from.toISOString(), until.toISOString(), instantArray(day.hours)])
    await query(TOTAL, [timeZone, start])
  })
