// Adds up the last N days as one window, for statistics over N days: one row per user instead of one per user and day.
import { type Series, seriesOf } from '../../quota/series.ts'
import { instantArray } from '../arrays.ts'
import type { Database, Query } from '../database.ts'
import { alone } from './alone.ts'
import { forgetOthers, forgetSums } from './forget-rollups.ts'
import { TOTAL } from './roll-usage.ts'
import { gapsOf, rolledDays, type Span, spansIn } from './rolled.ts'
import type { SafeTime } from './safe-time.ts'

/** Stands in place of a time zone where its days are added up together. */
const nameOf = (timeZone: string, days: number): string => `${timeZone}/${days} days`

/** With fewer there is little to gain. */
const FEWEST_DAYS = 3

/** Until where today, and with it the series of days, is added up. */
function endOfRolled({ starts }: Series, rolled: readonly Span[]): Date {
  const today = starts.at(-1) as Date
  const last = rolled.at(-1)
  return last && last.start >= today ? last.end : today
}

/** Until where the window is added up; undefined: it is not, or has a mark. */
async function endOfWindow(query: Query, name: string, window: Span): Promise<Date | undefined> {
  const [found] = await rolledDays(query, name, window)
  return found?.start.getTime() === window.start.getTime() ? found.end : undefined
}

/** The window for a statistic of these days, of which some are `rolled`. Undefined where it has a mark, or does not reach as far as they do. */
export async function findWindow(
  query: Query,
  timeZone: string,
  byDay: Series,
  rolled: readonly Span[]
): Promise<string | undefined> {
  const { starts } = byDay
  if (starts.length < FEWEST_DAYS) return undefined
  const name = nameOf(timeZone, starts.length)
  const end = await endOfWindow(query, name, { start: starts[0] as Date, end: byDay.end })
  return end?.getTime() === endOfRolled(byDay, rolled).getTime() ? name : undefined
}

/** $1 name, $2 the window's beginning, $3 time zone, $4 the days that are added up. */
const ROLL = (gaps: readonly Span[]) => `
INSERT INTO quota_usage_days AS d (time_zone, day_start, quota_type_id, user_id, usage, calls)
SELECT $1, $2::timestamptz, quota_type_id, user_id, sum(usage), sum(calls)
  FROM (
    SELECT d.quota_type_id, d.user_id, d.usage, d.calls
      FROM quota_usage_days d WHERE d.time_zone = $3 AND d.day_start = ANY ((SELECT $4::text::timestamptz[])::timestamptz[])
     UNION ALL
    SELECT u.quota_type_id, u.user_id, u.amount, 1 FROM usage_logs u WHERE ${spansIn('u.created_at', gaps, 5)}
  ) a
 GROUP BY quota_type_id, user_id
ON CONFLICT (user_id, quota_type_id, time_zone, day_start)
DO UPDATE SET usage = d.usage + excluded.usage, calls = d.calls + excluded.calls`

/** $4 until where it is added up. */
const DONE = `
INSERT INTO quota_rollups (time_zone, day_start, day_end, rolled_until) VALUES ($1, $2::timestamptz, $3::timestamptz, $4::timestamptz)
ON CONFLICT (time_zone, day_start) DO UPDATE SET day_end = excluded.day_end, rolled_until = excluded.rolled_until`

/**
 * Goes as far as the days are added up: from these, and from the log where they have gaps; once the window exists, from the log alone. A
 * mark in it makes the window count as absent. False: another process was at it.
 */
export async function rollWindow(db: Database, timeZone: string, days: number, safe: SafeTime): Promise<boolean> {
  const byDay = seriesOf('day', days, timeZone, new Date(safe.until))
  if (byDay.starts.length < FEWEST_DAYS) return true
  const window = { start: byDay.starts[0] as Date, end: byDay.end }
  const name = nameOf(timeZone, days)
  const seen = await rolledDays(db.query, timeZone, window)
  // Where days have few rows, reading the log is as fast.
  if (seen.length < FEWEST_DAYS || (await findWindow(db.query, timeZone, byDay, seen)) !== undefined) return true
  let isNew = false
  const isMine = await alone(db, async query => {
    const rolled = await rolledDays(query, timeZone, window)
    const until = endOfRolled(byDay, rolled)
    const begun = await endOfWindow(query, name, window)
    // It may be ahead, where the day has a mark.
    if (begun !== undefined && begun >= until) return
    const start = window.start.toISOString()
    isNew = begun === undefined
    if (isNew) {
      await forgetOthers(query, name, window)
      await forgetSums(query, name, window)
    }
    const added = isNew ? rolled : []
    const gaps = gapsOf({ start: begun ?? window.start, end: until }, added)
    const edges = gaps.flatMap(gap => [gap.start.toISOString(), gap.end.toISOString()])
    await query(ROLL(gaps), [name, start, timeZone, instantArray(added.map(day => day.start)), ...edges])
    await query(TOTAL, [name, start])
    await query(DONE, [name, start, window.end.toISOString(), until.toISOString()])
  })
  // Else the planner expects one row or none, and reads all where it needs few.
  if (isNew) await db.query('ANALYZE quota_usage_days')
  return isMine
}
