// Adds up the days that statistics of so many days end today with, all but today: by user it is then one row, and not one a day.
import { seriesOf } from '../../quota/series.ts'
import { instantArray } from '../arrays.ts'
import type { Database, Query } from '../database.ts'
import { forgetOthers, forgetSums } from './forget-usage.ts'
import { gapsOf, isRolled, rolledDays, type Span, spansIn } from './rolled.ts'
import { alone } from './rolling.ts'
import type { SafeTime } from './safe-time.ts'

/** What stands in place of a time zone where days of it are added up together: `UTC/29`. */
const nameOf = (timeZone: string, days: number): string => `${timeZone}/${days - 1}`

/** All of these days but the last. */
const windowOf = (starts: readonly Date[]): Span => ({ start: starts[0] as Date, end: starts.at(-1) as Date })

interface Window extends Span {
  name: string
}

/** The window of a statistic whose days begin so, if it is added up and has no mark. */
export async function findWindow(query: Query, timeZone: string, starts: readonly Date[]): Promise<Window | undefined> {
  if (starts.length < FEWEST_DAYS) return undefined
  const name = nameOf(timeZone, starts.length)
  const window = windowOf(starts)
  return (await isRolled(query, name, window)) ? { ...window, name } : undefined
}

/** With fewer there is little to gain. */
const FEWEST_DAYS = 3

/** $1 name, $2 the window's beginning, $3 time zone, $4 the days that are added up. */
const ROLL = (gaps: readonly Span[]) => `
INSERT INTO quota_usage_days (time_zone, day_start, quota_type_id, user_id, usage, calls)
SELECT $1, $2::timestamptz, quota_type_id, user_id, sum(usage), sum(calls)
  FROM (
    SELECT d.quota_type_id, d.user_id, d.usage, d.calls
      FROM quota_usage_days d WHERE d.time_zone = $3 AND d.day_start = ANY ((SELECT $4::text::timestamptz[])::timestamptz[])
     UNION ALL
    SELECT u.quota_type_id, u.user_id, u.amount, 1 FROM usage_logs u WHERE ${spansIn('u.created_at', gaps, 5)}
  ) a
 GROUP BY quota_type_id, user_id`

const DONE = `
INSERT INTO quota_rollups (time_zone, day_start, day_end, rolled_until) VALUES ($1, $2::timestamptz, $3::timestamptz, $3::timestamptz)
ON CONFLICT (time_zone, day_start) DO UPDATE SET day_end = excluded.day_end, rolled_until = excluded.rolled_until`

/**
 * From the days that are added up, and what the log has besides. It is made where it is not there; whoever leaves a mark in it makes it as if it
 * had never been. False: another process was at it.
 */
export async function rollWindow(db: Database, timeZone: string, days: number, safe: SafeTime): Promise<boolean> {
  const { starts } = seriesOf('day', days, timeZone, new Date(safe.until))
  if (starts.length < FEWEST_DAYS) return true
  const [name, window] = [nameOf(timeZone, days), windowOf(starts)]
  // Where days have few rows the log is read as fast.
  const isWorthIt = (await rolledDays(db.query, timeZone, window)).length >= FEWEST_DAYS
  if (!isWorthIt || (await isRolled(db.query, name, window))) return true
  return await alone(db, async query => {
    const rolled = await rolledDays(query, timeZone, window)
    if (await isRolled(query, name, window)) return
    const gaps = gapsOf(window, rolled)
    const [start, end] = [window.start.toISOString(), window.end.toISOString()]
    await forgetOthers(query, name, window)
    await forgetSums(query, name, window)
    const edges = gaps.flatMap(gap => [gap.start.toISOString(), gap.end.toISOString()])
    await query(ROLL(gaps), [name, start, timeZone, instantArray(rolled.map(day => day.start)), ...edges])
    await query(DONE, [name, start, end])
  })
}
