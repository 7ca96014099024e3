// When a quota starts again: the period of a user's calendar that an instant falls into.
import { Temporal } from 'temporal-polyfill'

export const PERIOD_UNITS = ['hour', 'day', 'week', 'month', 'year', 'never'] as const
export type PeriodUnit = (typeof PERIOD_UNITS)[number]

/** A user's calendar. */
export interface Calendar {
  /** IANA time zone name. */
  timeZone: string
  /** A day (`2026-01-31`) that the user's weeks, months and years are counted from; null: the calendar's own. */
  anchor: string | null
}

/** Half open: `start` belongs to it, `end` to the next one. */
export interface Period {
  start: Date
  /** Null: it never ends. */
  end: Date | null
}

export const isPeriodUnit = (value: unknown): value is PeriodUnit => PERIOD_UNITS.includes(value as PeriodUnit)

/** Only IANA names: the forms `+05:30` and `Foo+5` are fixed offsets, and know no daylight saving. */
export function isTimeZone(value: unknown): value is string {
  if (typeof value !== 'string' || !/^[A-Za-z]/.test(value)) return false
  try {
    return new Temporal.ZonedDateTime(0n, value).timeZoneId !== ''
  } catch {
    return false
  }
}

/** The period of `unit` that contains `at`. `never` begins at `at`. */
export function periodContaining(unit: PeriodUnit, calendar: Calendar, at: Date): Period {
  if (unit === 'never') return { start: at, end: null }
  const now = Temporal.Instant.fromEpochMilliseconds(at.getTime()).toZonedDateTimeISO(calendar.timeZone)
  if (unit === 'hour') return hourContaining(now)
  const today = dayContaining(now)
  const [first, next] = unit === 'day' ? [today, today.add({ days: 1 })] : daysContaining(unit, calendar.anchor, today)
  return { start: startOf(first, calendar.timeZone), end: startOf(next, calendar.timeZone) }
}

/** The calendar's month, such as `2026-11`, whatever the user's periods are. */
export function monthOf(month: string, timeZone: string): Period {
  const first = Temporal.PlainYearMonth.from(month).toPlainDate({ day: 1 })
  return { start: startOf(first, timeZone), end: startOf(first.add({ months: 1 }), timeZone) }
}

/**
 * Cut at the offset in force, like PostgreSQL's three-argument date_trunc. By the wall clock, the repeated hour of a DST
 * night would land in a period that begins in the future.
 */
function hourContaining(now: Temporal.ZonedDateTime): Period {
  const hour = 3_600_000
  const offset = now.offsetNanoseconds / 1_000_000
  const start = Math.floor((now.epochMilliseconds + offset) / hour) * hour - offset
  return { start: new Date(start), end: new Date(start + hour) }
}

/**
 * The day that began most recently. Where clocks go back past midnight (from 00:01 to 23:01: Newfoundland until 2011), the day
 * before comes round again after it has ended.
 */
function dayContaining(now: Temporal.ZonedDateTime): Temporal.PlainDate {
  const day = now.toPlainDate()
  const tomorrow = day.add({ days: 1 })
  return startOf(tomorrow, now.timeZoneId).getTime() <= now.epochMilliseconds ? tomorrow : day
}

/** The first day of the period that contains `today`, and of the next one. */
function daysContaining(
  unit: 'week' | 'month' | 'year',
  anchor: string | null,
  today: Temporal.PlainDate
): [Temporal.PlainDate, Temporal.PlainDate] {
  if (anchor !== null) return anchoredDays(unit, Temporal.PlainDate.from(anchor), today)
  const first =
    unit === 'week'
      ? today.subtract({ days: today.dayOfWeek - 1 })
      : unit === 'month'
        ? today.with({ day: 1 })
        : today.with({ month: 1, day: 1 })
  return [first, first.add({ [`${unit}s`]: 1 })]
}

/** Always counted from the anchor, never step by step, so that a 31st snaps back: 31 January, 28 February, 31 March. */
function anchoredDays(
  unit: 'week' | 'month' | 'year',
  anchor: Temporal.PlainDate,
  today: Temporal.PlainDate
): [Temporal.PlainDate, Temporal.PlainDate] {
  const nth = (n: number) => anchor.add({ [`${unit}s`]: n })
  let n = anchor.until(today, { largestUnit: `${unit}s` })[`${unit}s`]
  while (Temporal.PlainDate.compare(nth(n), today) > 0) n -= 1
  while (Temporal.PlainDate.compare(nth(n + 1), today) <= 0) n += 1
  return [nth(n), nth(n + 1)]
}

/** The first instant of a day, even where the clocks skip its midnight. */
const startOf = (day: Temporal.PlainDate, timeZone: string): Date =>
  new Date(day.toZonedDateTime(timeZone).epochMilliseconds)
