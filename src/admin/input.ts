// What an operator sends, read strictly: a number takes digits only, and an error names the field.
import type { FastifyRequest } from 'fastify'
import { isLimit } from '../quota/amount.ts'
import { FST_QUOTA_INVALID_LIMIT, FST_QUOTA_INVALID_REQUEST, FST_QUOTA_INVALID_USER } from '../quota/errors.ts'
import { isTimeZone } from '../quota/period.ts'
import { isUserId } from '../quota/user-id.ts'

export type Query = Record<string, string | undefined>

export const queryOf = (request: FastifyRequest): Query => request.query as Query

/** 400, with the field that is wrong. */
export const refuse = (field: string, remedy: string): Error =>
  Object.assign(new FST_QUOTA_INVALID_REQUEST(field, remedy), { field })

export function readUserId(request: FastifyRequest): string {
  const { userId } = request.params as { userId: string }
  if (!isUserId(userId)) throw Object.assign(new FST_QUOTA_INVALID_USER(), { field: 'userId' })
  return userId
}

/** The user whom a query names. */
export function readUserFilter(query: Query, field: string): string | undefined {
  const value = query[field]
  if (value === undefined || isUserId(value)) return value
  throw Object.assign(new FST_QUOTA_INVALID_USER(), { field })
}

const bodyOf = (request: FastifyRequest) => (request.body ?? {}) as Record<string, unknown>

const DIFFER = 'is in both the query and the body, with different values'

/** A parameter that may be in the query or in the body; in both only where they agree. */
function readEither(request: FastifyRequest, field: string): unknown {
  const query = (request.query as Record<string, unknown>)[field]
  const body = bodyOf(request)[field]
  if (query !== undefined && body !== undefined && String(query) !== String(body)) throw refuse(field, DIFFER)
  return body ?? query
}

export const readText = (request: FastifyRequest, field: string, maxLength?: number): string | undefined =>
  checkText(field, readEither(request, field), maxLength)

export function checkText(field: string, value: unknown, maxLength = 1000): string | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'string' || value === '' || value.length > maxLength)
    throw refuse(field, `must be a string of 1 to ${maxLength} characters`)
  // PostgreSQL stores neither.
  if (value.includes('\0')) throw refuse(field, 'has the character U+0000; leave that out')
  if (!value.isWellFormed()) throw refuse(field, 'has half of a surrogate pair; write the whole character')
  return value
}

/** Why a change is made. */
export const readReason = (request: FastifyRequest): string | undefined => readText(request, 'reason')

/** A limit: malformed is 400, a number that is no limit 422. */
export function readLimit(request: FastifyRequest, field: string): number {
  const given = [bodyOf(request)[field], queryOf(request)[field]].filter(value => value !== undefined && value !== null)
  // Compared as they are read: 5, 5.0 and 05 are one limit.
  const [limit, other = limit] = given.map(value => checkLimit(field, value))
  if (limit === undefined) throw refuse(field, 'is missing; give a whole number, or -1 for unlimited')
  if (limit !== other) throw refuse(field, DIFFER)
  return limit
}

export function checkLimit(field: string, value: unknown): number {
  const isNumeral = typeof value === 'number' || (typeof value === 'string' && /^-?[0-9]+(\.[0-9]+)?$/.test(value))
  if (!isNumeral) throw refuse(field, 'must be a whole number, or -1 for unlimited')
  // Read as a number, -1.00000000000000000000001 would be -1.
  const limit = /^-?[0-9]+(\.0+)?$/.test(String(value)) ? Number(value) : Number.NaN
  if (!isLimit(limit)) throw invalidLimit(field, String(value))
  return limit
}

/** 422, with the field that is wrong. */
export const invalidLimit = (field: string, text: string): Error =>
  Object.assign(new FST_QUOTA_INVALID_LIMIT(text.slice(0, 40)), { field })

/** A count in the query, digits only, within the bounds that its schema shows. */
export function readCount(
  query: Query,
  field: string,
  { minimum, maximum, default: fallback }: { minimum: number; maximum: number; default: number }
): number {
  const value = query[field]
  if (value === undefined) return fallback
  const count = /^[0-9]{1,15}$/.test(value) ? Number(value) : Number.NaN
  if (!(count >= minimum && count <= maximum))
    throw refuse(field, `must be a whole number from ${minimum} to ${maximum}`)
  return count
}

export function readChoice<C extends string>(
  query: Query,
  field: string,
  { enum: choices, default: fallback }: { enum: readonly C[]; default: C }
): C {
  const value = query[field]
  if (value === undefined) return fallback
  const choice = choices.find(known => known === value)
  if (choice === undefined) throw refuse(field, `must be one of ${choices.join(', ')}`)
  return choice
}

export function readTimeZone(query: Query, field: string, { default: fallback }: { default: string }): string {
  const { [field]: value = fallback } = query
  if (!isTimeZone(value)) throw refuse(field, 'must be an IANA time zone such as Europe/Berlin')
  return value
}

const ISO_DATE = /^(\d{4}-\d{2}-\d{2})(?:T(\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)(Z|([+-]\d{2}):?(\d{2})?)?)?$/

/** Rewritten so that JavaScript reads all alike: it takes a time without an offset for its own zone's. */
function dateIn(value: string): Date {
  const [, day, time = '00:00', offset, hours, minutes = '00'] = ISO_DATE.exec(value) ?? []
  return new Date(
    day === undefined ? Number.NaN : `${day}T${time}${hours === undefined ? (offset ?? 'Z') : `${hours}:${minutes}`}`
  )
}

/** ISO 8601: a day (its first instant), or an instant; in UTC where it has no offset. */
function readInstant(query: Query, field: string): Date | undefined {
  const value = query[field]
  if (value === undefined) return undefined
  // In a query a + is a space.
  if (/T.* \d{2}:?(\d{2})?$/.test(value))
    throw refuse(field, 'has a space where its offset begins; in a URL, write + as %2B')
  const date = dateIn(value)
  const year = date.getUTCFullYear()
  if (!(year >= 1970 && year <= 9999))
    throw refuse(
      field,
      'must be an ISO 8601 date such as 2026-11-24, or an instant such as 2026-11-24T10:00:00Z, from 1970 to 9999'
    )
  if (!isRealDay(value)) throw refuse(field, 'names a day that does not exist')
  return date
}

/** JavaScript reads 2026-02-30 as the 2nd of March. */
function isRealDay(value: string): boolean {
  const [year, month, day] = value.slice(0, 10).split('-').map(Number) as [number, number, number]
  return day <= new Date(Date.UTC(year, month, 0)).getUTCDate()
}

const DAY_MS = 86_400_000
/** The last millisecond that PostgreSQL and an ISO 8601 text of four-digit years both have. */
export const LAST_INSTANT_MS = Date.UTC(9999, 11, 31, 23, 59, 59, 999)

/** From start_date on, and until end_date; a day that is named as the end is included whole. */
export function readSpan(query: Query): { from: Date | undefined; until: Date | undefined } {
  const from = readInstant(query, 'start_date')
  const end = readInstant(query, 'end_date')
  const until = end && query.end_date?.length === 10 ? new Date(Math.min(end.getTime() + DAY_MS, LAST_INSTANT_MS)) : end
  if (from && until && until <= from) throw refuse('end_date', 'must be later than start_date')
  return { from, until }
}
