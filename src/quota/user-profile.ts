// What may be known of a user besides the id: an email address, and the day that periods are counted from.

export const isEmail = (value: unknown): value is string =>
  typeof value === 'string' &&
  value.length <= 320 &&
  /^[^\s@\p{Cc}]+@[^\s@\p{Cc}]+$/u.test(value) &&
  value.isWellFormed()

/** A day of the calendar, from the year 1 on: `2026-01-31`. */
export function isDay(value: unknown): value is string {
  if (typeof value !== 'string' || !/^(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}$/.test(value)) return false
  const day = new Date(`${value}T00:00:00Z`)
  // 31 February is read as 3 March.
  return !Number.isNaN(day.getTime()) && day.toISOString().startsWith(value)
}
