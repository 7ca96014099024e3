// `app.quota`: the same quotas, for code that is not a metered route.
import { MAX_AMOUNT } from '../quota/amount.ts'
import { type Balance, fits } from '../quota/balance.ts'
import { FST_QUOTA_KIND_MISMATCH, FST_QUOTA_UNKNOWN_USER } from '../quota/errors.ts'
import type { QuotaTypeKey } from '../quota/rule.ts'
import { adjustQuota } from '../store/adjust-quota.ts'
import { userExists } from '../store/find-user.ts'
import type { Actor } from '../store/record-audit.ts'
import { resetQuota } from '../store/reset-quota.ts'
import { viewQuotas } from '../store/view-quotas.ts'
import { requireAmount, requireLimit, requireText, requireUser } from './arguments.ts'
import { type ChargeCallOptions, consume } from './consume.ts'
import type { MeterContext } from './context.ts'
import { credit, setUsage } from './level.ts'
import { type Reservation, type ReserveCharges, type ReserveOptions, reserveFor } from './reserve.ts'

/** Whether something would be admitted, and the balance it would be measured against. */
export interface Check extends Omit<Balance, 'periodStart'> {
  allowed: boolean
}

/** What was reset: the keys of the types whose period was closed. */
export interface ResetResult {
  quotasReset: string[]
}

/** Who asks for a reset or an adjustment, for the audit log. Default actor: `application`. */
export interface ChangeOptions {
  actor?: string
  reason?: string
}

/**
 * Every call rejects with FST_QUOTA_INVALID_USER, FST_QUOTA_UNKNOWN_TYPE or FST_QUOTA_INVALID_AMOUNT for what is not one, and with
 * FST_QUOTA_STORE when the database does not answer; nothing is changed then, unless it says so.
 */
export interface Meter {
  /** Whether `amount` (default 1) would fit now. Writes nothing, so another request may be faster: charge with `consume`. */
  check(userId: string, type: QuotaTypeKey, amount?: number): Promise<Check>
  /**
   * Charges at once (default 1), with one log row, and returns the balance afterwards. Rejects with FST_QUOTA_EXCEEDED, and changes
   * nothing, when it does not fit. With an `idempotencyKey` (kept a day, scoped to the user) a repeated call gets the first
   * answer and charges nothing; the key with another type or amount rejects with FST_QUOTA_IDEMPOTENCY_MISMATCH.
   */
  consume(userId: string, type: QuotaTypeKey, amount?: number, options?: ChargeCallOptions): Promise<Balance>
  /** What is left; `Infinity` when unlimited. */
  remaining(userId: string, type: QuotaTypeKey): Promise<number>
  /** Every balance of a user; of one who was never seen, what the user would get. */
  all(userId: string): Promise<Balance[]>
  /**
   * Holds amounts for work that outlives a request: all charges or none (FST_QUOTA_EXCEEDED). It is held while this process lives, or
   * for `ttlMs` from now when given; then it is given back, and a late `commit` still charges.
   */
  reserve(userId: string, charges: ReserveCharges, options?: ReserveOptions): Promise<Reservation>
  /** Lowers a level by `amount` (a file was deleted), never below 0. Rejects with FST_QUOTA_KIND_MISMATCH for a flow. */
  credit(userId: string, type: QuotaTypeKey, amount: number, options?: ChargeCallOptions): Promise<Balance>
  /** Sets a level to what was measured, also past the limit; what running work holds comes on top. Rejects with FST_QUOTA_KIND_MISMATCH for a flow. */
  setUsage(
    userId: string,
    type: QuotaTypeKey,
    amount: number,
    options?: Omit<ChargeCallOptions, 'idempotencyKey'>
  ): Promise<Balance>
  /**
   * Closes the running period of every flow, or of one type, and opens a new one. Rejects with FST_QUOTA_UNKNOWN_USER, and with
   * FST_QUOTA_KIND_MISMATCH for a level, which never resets.
   */
  reset(userId: string, type?: QuotaTypeKey, options?: ChangeOptions): Promise<ResetResult>
  /** Gives the user another limit (−1: unlimited), also below what is used. Rejects with FST_QUOTA_UNKNOWN_USER, FST_QUOTA_INVALID_LIMIT. */
  adjust(userId: string, type: QuotaTypeKey, newLimit: number, options?: ChangeOptions): Promise<Balance>
}

export function createMeter(context: MeterContext): Meter {
  const { db, types } = context
  const view = async (userId: string, type: string): Promise<Balance> => {
    requireUser(userId)
    const { key, defaultLimit } = await types.get(type, 'asked for through app.quota')
    const { quotas } = await viewQuotas(db, userId, key)
    return quotas[0] ?? missing(key, defaultLimit)
  }
  return {
    async check(userId, type, amount = 1) {
      requireAmount(amount)
      const { periodStart: _, ...balance } = plain(await view(userId, type))
      return { allowed: fits(balance, amount), ...balance }
    },
    consume: (userId, type, amount = 1, options = {}) => consume(context, userId, type, amount, options),
    async remaining(userId, type) {
      const { remaining } = await view(userId, type)
      return remaining < 0 ? Number.POSITIVE_INFINITY : remaining
    },
    async all(userId) {
      requireUser(userId)
      return (await viewQuotas(db, userId)).quotas.map(plain)
    },
    reserve: (userId, charges, options = {}) => reserveFor(context, userId, charges, options),
    credit: (userId, type, amount, options = {}) => credit(context, userId, type, amount, options),
    setUsage: (userId, type, amount, options = {}) => setUsage(context, userId, type, amount, options),
    reset: (userId, type, options = {}) => reset(context, userId, type, options),
    adjust: (userId, type, newLimit, options = {}) => adjust(context, userId, type, newLimit, options)
  }
}

async function reset(
  { db, types }: MeterContext,
  userId: string,
  key: string | undefined,
  options: ChangeOptions
): Promise<ResetResult> {
  requireUser(userId)
  const type = key === undefined ? undefined : await types.get(key, 'to be reset')
  if (type?.kind === 'level')
    throw new FST_QUOTA_KIND_MISMATCH(type.key, type.kind, 'it never resets; set it to what was measured with setUsage')
  if (!(await userExists(db, userId))) throw new FST_QUOTA_UNKNOWN_USER()
  return { quotasReset: await resetQuota(db, userId, key ?? null, by(options)) }
}

async function adjust(
  { db, types }: MeterContext,
  userId: string,
  key: string,
  newLimit: number,
  options: ChangeOptions
): Promise<Balance> {
  requireUser(userId)
  requireLimit(newLimit)
  const type = await types.get(key, 'to be adjusted')
  if (!(await userExists(db, userId))) throw new FST_QUOTA_UNKNOWN_USER()
  return (await adjustQuota(db, userId, key, newLimit, by(options))) ?? missing(type.key, newLimit)
}

function by({ actor = 'application', reason }: ChangeOptions): Actor {
  requireText('actor', actor)
  requireText('reason', reason)
  return { actor, reason: reason ?? null, requestId: null }
}

const plain = ({ type, limit, used, reserved, remaining, periodStart, resetsAt }: Balance): Balance => ({
  type,
  limit,
  used,
  reserved,
  remaining,
  periodStart,
  resetsAt
})

/** A type that is switched off, and that this user has no counter of. */
const missing = (type: string, limit: number): Balance => ({
  type,
  limit,
  used: 0,
  reserved: 0,
  remaining: Math.min(limit, MAX_AMOUNT),
  periodStart: new Date(0),
  resetsAt: null
})
