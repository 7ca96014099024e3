// The calendar that a user's row describes.
import { FST_QUOTA_CALENDAR } from '../quota/errors.ts'
import { type Calendar, isTimeZone } from '../quota/period.ts'

export interface CalendarRow {
  time_zone: string | null
  period_anchor: string | null
}

/** A user without a row has UTC's calendar. A zone that is none can only have been written by hand. */
export function calendarOf(row: CalendarRow): Calendar {
  const timeZone = row.time_zone ?? 'UTC'
  if (!isTimeZone(timeZone)) throw new FST_QUOTA_CALENDAR(timeZone)
  return { timeZone, anchor: row.period_anchor }
}
