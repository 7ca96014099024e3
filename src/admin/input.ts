// What an operator sends, read strictly: digits where a number is meant, and the name of the field where it is not.
import type { FastifyRequest } from 'fastify'
import { isLimit } from '../quota/amount.ts'
import { FST_QUOTA_INVALID_LIMIT, FST_QUOTA_INVALID_REQUEST, FST_QUOTA_INVALID_USER } from '../quota/errors.ts'
import { isUserId } from '../quota/user-id.ts'

const invalid = (field: string, remedy: string): Error =>
  Object.assign(new FST_QUOTA_INVALID_REQUEST(field, remedy), { field })

export function readUserId(request: FastifyRequest): string {
  const { userId } = request.params as { userId: string }
  if (!isUserId(userId)) throw new FST_QUOTA_INVALID_USER()
  return userId
}

/** The user whom a query names. */
export function readUserFilter(query: Record<string, unknown>, field: string): string | undefined {
  const value = query[field]
  if (value === undefined || isUserId(value)) return value
  throw Object.assign(new FST_QUOTA_INVALID_USER(), { field })
}

/** A parameter that may stand in the query or in the body; in both only where they agree. */
function readEither(request: FastifyRequest, field: string): unknown {
  const query = (request.query as Record<string, unknown>)[field]
  const body = (request.body as Record<string, unknown> | undefined)?.[field]
  if (query !== undefined && body !== undefined && String(query) !== String(body))
    throw invalid(field, 'is in the query and in the body, and they differ')
  return body ?? query
}

export function readText(request: FastifyRequest, field: string): string | undefined {
  const value = readEither(request, field)
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'string' || value === '' || value.length > 1000 || value.includes('\0'))
    throw invalid(field, 'must be a text of 1 to 1000 characters')
  return value
}

/** A limit: malformed is 400, a number that is no limit 422. */
export function readLimit(request: FastifyRequest, field: string): number {
  const value = readEither(request, field)
  if (value === undefined || value === null)
    throw invalid(field, 'is missing; give a whole number, or -1 for unlimited')
  const isNumeral = typeof value === 'number' || (typeof value === 'string' && /^-?[0-9]{1,20}(\.[0-9]+)?$/.test(value))
  if (!isNumeral) throw invalid(field, 'must be a whole number, or -1 for unlimited')
  const limit = Number(value)
  if (!isLimit(limit)) throw Object.assign(new FST_QUOTA_INVALID_LIMIT(String(value)), { field })
  return limit
}

/** A count in the query, digits only. */
export function readCount(
  query: Record<string, unknown>,
  field: string,
  min: number,
  max: number,
  fallback: number
): number {
  const value = query[field]
  if (value === undefined) return fallback
  const count = typeof value === 'string' && /^[0-9]{1,15}$/.test(value) ? Number(value) : Number.NaN
  if (!(count >= min && count <= max)) throw invalid(field, `must be a whole number from ${min} to ${max}`)
  return count
}

const ISO_DATE = /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2}))?$/

/** ISO 8601: a day (its first instant, in UTC), or an instant with its offset. */
export function readInstant(query: Record<string, unknown>, field: string): Date | undefined {
  const value = query[field]
  if (value === undefined) return undefined
  const date = typeof value === 'string' && ISO_DATE.test(value) ? new Date(value) : new Date(Number.NaN)
  const year = date.getUTCFullYear()
  if (!(year >= 1970 && year <= 9999))
    throw invalid(
      field,
      'must be an ISO 8601 date such as 2026-11-24, or an instant such as 2026-11-24T10:00:00Z, from 1970 to 9999'
    )
  if (!isRealDay(value as string)) throw invalid(field, 'names a day that does not exist')
  return date
}

/** JavaScript reads 2026-02-30 as the 2nd of March. */
function isRealDay(value: string): boolean {
  const [year, month, day] = value.slice(0, 10).split('-').map(Number) as [number, number, number]
  return day <= new Date(Date.UTC(year, month, 0)).getUTCDate()
}

export const refuse = invalid
