// What an amount is: a whole number in the type's base unit, 0 … 2^53 − 1.

export const MAX_AMOUNT = Number.MAX_SAFE_INTEGER

/** The stored limit that means "as much as you like". */
export const UNLIMITED = -1

export const isAmount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

export const isLimit = (value: unknown): value is number => value === UNLIMITED || isAmount(value)

/** What was given instead, for a message. `String` throws for an object without a prototype, as a request's query is. */
export const shown = (value: unknown): string =>
  typeof value === 'object' && value !== null ? Object.prototype.toString.call(value) : String(value)
