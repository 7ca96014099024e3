// How a span of time is cut for a statistic: whole days, or hours, of one time zone, without gaps.
import { Temporal } from 'temporal-polyfill'

export interface Series {
  /** The first instant of each piece, in order. */
  starts: Date[]
  /** Where the last piece ends. */
  end: Date
}

/**
 * The last `days` days of the zone's calendar, today included: as days, or as hours. When the clocks change a day has 23 or 25 hours, and
 * the repeated hour is listed twice.
 */
export function seriesOf(interval: 'hour' | 'day', days: number, timeZone: string, at: Date): Series {
  const today = Temporal.Instant.fromEpochMilliseconds(at.getTime()).toZonedDateTimeISO(timeZone).toPlainDate()
  const first = today.subtract({ days: days - 1 })
  const startOf = (day: Temporal.PlainDate) => day.toZonedDateTime(timeZone).epochMilliseconds
  const midnights = Array.from({ length: days + 1 }, (_, i) => startOf(first.add({ days: i })))
  const end = midnights.pop() as number
  // Each day's hours are counted from its own midnight: where the clock changes by half an hour, that day's last hour is half as long.
  const starts =
    interval === 'day' ? midnights : midnights.flatMap((start, i) => hoursBetween(start, midnights[i + 1] ?? end))
  return { starts: starts.map(ms => new Date(ms)), end: new Date(end) }
}

const HOUR_MS = 3_600_000

const hoursBetween = (from: number, to: number): number[] =>
  Array.from({ length: Math.ceil((to - from) / HOUR_MS) }, (_, i) => from + i * HOUR_MS)

/** The day of the zone's calendar that an instant falls into: `2026-11-24`. */
export const dayOf = (at: Date, timeZone: string): string =>
  Temporal.Instant.fromEpochMilliseconds(at.getTime()).toZonedDateTimeISO(timeZone).toPlainDate().toString()
