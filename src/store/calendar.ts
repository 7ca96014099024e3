// The calendar that a user's row describes.
import { FST_QUOTA_CALENDAR } from '../quota/errors.ts'
import { type Calendar, isTimeZone, type PeriodUnit, periodContaining } from '../quota/period.ts'
import { isEndless, periodOf, type QuotaKind } from '../quota/quota-type.ts'
import { dateOf } from './database.ts'

export interface CalendarRow {
  time_zone: string | null
  period_anchor: string | null
}

/** A type, the calendar of a user, and an instant. */
export interface PeriodRow extends CalendarRow {
  kind: QuotaKind
  period: PeriodUnit
  at: number
}

/** The period of the type that contains the instant, as the statements that open one take it. */
export function openingOf(row: PeriodRow): { period_start: Date; period_end: Date | null; is_endless: boolean } {
  const { start, end } = periodContaining(periodOf(row), calendarOf(row), dateOf(row.at))
  return { period_start: start, period_end: end, is_endless: isEndless(row) }
}

/** A user without a row has UTC's calendar. An invalid zone can only have been written by hand. */
export function calendarOf(row: CalendarRow): Calendar {
  const timeZone = row.time_zone ?? 'UTC'
  if (!isTimeZone(timeZone))
    throw new FST_QUOTA_CALENDAR(`time_zone ${timeZone}`, 'not an IANA name such as Europe/Berlin')
  const anchor = row.period_anchor
  // PostgreSQL has dates that no calendar has: infinity, and years before Christ.
  if (anchor !== null && !/^\d{4}-\d{2}-\d{2}$/.test(anchor))
    throw new FST_QUOTA_CALENDAR(`period_anchor ${anchor}`, 'not a day such as 2026-01-31')
  return { timeZone, anchor }
}

/** In work on many users, an error must say whose row it is about. */
export function ofUser<T>(userId: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw Object.assign(error as Error, { message: `user '${userId}': ${(error as Error).message}` })
  }
}
