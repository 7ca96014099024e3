// What the calls of `app.quota` accept, and how they refuse the rest.
import { isAmount, isLimit } from '../quota/amount.ts'
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
  if (!isAmount(amount)) throw new FST_QUOTA_INVALID_AMOUNT(what, String(amount))
}

export function requireLimit(limit: unknown): void {
  if (!isLimit(limit)) throw new FST_QUOTA_INVALID_LIMIT(String(limit))
}

export function requireIdempotencyKey(key: unknown): void {
  if (
    key === undefined ||
    (typeof key === 'string' && key.length >= 1 && key.length <= 255 && !key.includes('\0') && key.isWellFormed())
  )
    return
  throw new FST_QUOTA_INVALID_CALL('idempotencyKey', 'must be a text of 1 to 255 characters')
}

export function requireEndpoint(endpoint: unknown): void {
  if (
    endpoint === undefined ||
    endpoint === null ||
    (typeof endpoint === 'string' && endpoint.length <= 2048 && !endpoint.includes('\0'))
  )
    return
  throw new FST_QUOTA_INVALID_CALL(
    'endpoint',
    'must be a text of at most 2048 characters; it names where the charge came from'
  )
}
