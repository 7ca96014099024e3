// What the calls of `app.quota` accept, and how they refuse the rest.
import { isAmount, isLimit, shown } from '../quota/amount.ts'
import {
  FST_QUOTA_INVALID_AMOUNT,
  FST_QUOTA_INVALID_CALL,
  FST_QUOTA_INVALID_LIMIT,
  FST_QUOTA_INVALID_USER
} from '../quota/errors.ts'
import { isUserId } from '../quota/user-id.ts'

export function requireUser(userId: unknown): void {
  if (!isUserId(userId)) throw new FST_QUOTA_INVALID_USER()
}

export function requireAmount(amount: unknown, what = 'The amount'): void {
  if (!isAmount(amount)) throw new FST_QUOTA_INVALID_AMOUNT(what, shown(amount))
}

export function requireLimit(limit: unknown): void {
  if (!isLimit(limit)) throw new FST_QUOTA_INVALID_LIMIT(shown(limit))
}

export function requireIdempotencyKey(key: unknown): void {
  if (
    key === undefined ||
    (typeof key === 'string' && key.length >= 1 && key.length <= 255 && !key.includes('\0') && key.isWellFormed())
  )
    return
  throw new FST_QUOTA_INVALID_CALL('idempotencyKey', 'must be a string of 1 to 255 characters')
}

/** The last argument of a call, where it is given: a misspelt field must not silently leave the default in place. */
export function requireOptions(options: unknown, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options))
    throw new FST_QUOTA_INVALID_CALL('options', `must be an object; fields known here: ${known.join(', ')}`)
  requireKnown('options', options, known)
}

export function requireKnown(argument: string, given: object, known: readonly string[]): void {
  const unknown = Object.keys(given).find(field => !known.includes(field))
  if (unknown !== undefined)
    throw new FST_QUOTA_INVALID_CALL(`${argument}.${unknown}`, `is not known; known here: ${known.join(', ')}`)
}

export function requireFlag(argument: string, flag: unknown): void {
  if (flag !== undefined && typeof flag !== 'boolean')
    throw new FST_QUOTA_INVALID_CALL(argument, 'must be true or false')
}

/** A text that goes into a table: where a charge came from, who made a change, why. */
export function requireText(argument: string, text: unknown): void {
  if (
    text === undefined ||
    (typeof text === 'string' && text !== '' && text.length <= 2048 && !text.includes('\0') && text.isWellFormed())
  )
    return
  throw new FST_QUOTA_INVALID_CALL(argument, 'must be a string of 1 to 2048 characters')
}
