// `app.quota`: the same quotas, for code that is not a metered route.
import { type Balance, fits } from '../quota/balance.ts'
import { FST_QUOTA_KIND_MISMATCH, FST_QUOTA_UNKNOWN_USER } from '../quota/errors.ts'
import type { QuotaTypeKey } from '../quota/rule.ts'
import { ensureUser } from '../store/charge/ensure-user.ts'
import { within } from '../store/database.ts'
import { adjustQuota } from '../store/operator/adjust-quota.ts'
import { userExists } from '../store/operator/find-user.ts'
import { resetQuota } from '../store/operator/reset-quota.ts'
import { viewQuotas } from '../store/operator/view-quotas.ts'
import { type Actor, APPLICATION } from '../store/record-audit.ts'
import { requireAmount, requireFlag, requireLimit, requireOptions, requireText, requireUser } from './arguments.ts'
import { type ChargeCallOptions, consume } from './consume.ts'
import type { MeterContext } from './context.ts'
import { credit, setUsage } from './level.ts'
import { type Reservation, type ReserveCharges, type ReserveOptions, reserveFor } from './reserve.ts'
import { plain, viewBalance } from './view.ts'

/** Whether something would be admitted, and the balance it would be measured against. */
export interface Check extends Omit<Balance, 'periodStart'> {
  allowed: boolean
}

/** What was reset: the keys of the types whose period was closed. */
export interface ResetResult {
  quotasReset: string[]
}

/** Who asks for a reset or an adjustment, for the audit log. */
export interface ChangeOptions {
  /** Default: `application`. */
  actor?: string
  reason?: string
  /** The request that led to it: `request.id`. */
  requestId?: string
}

export interface AdjustOptions extends ChangeOptions {
  /** Creates a user who was never seen, with the defaults of every other type: for a plan that is chosen at sign-up. Default: `false`. */
  createUser?: boolean
}

/**
 * Every call rejects with FST_QUOTA_INVALID_USER, FST_QUOTA_UNKNOWN_TYPE or FST_QUOTA_INVALID_AMOUNT for what is not one, and with
 * FST_QUOTA_STORE when the database does not answer. A statement that was given up may still be carried out: give `consume` an
 * `idempotencyKey` where a call may be repeated. Nothing is charged to a type that an operator has switched off (`is_active`), here as on a
 * route: the calls give the balance as it stands, or a known key's first answer.
 */
export interface Meter {
  /** Whether `amount` (default 1) would be admitted now. Writes nothing, so another request may be faster: to charge, use `consume`. */
  check(userId: string, type: QuotaTypeKey, amount?: number): Promise<Check>
  /**
   * Charges at once (default 1), with one log row, and returns the balance afterwards. Rejects with FST_QUOTA_EXCEEDED, and changes
   * nothing, when it does not fit. With an `idempotencyKey` (kept a day, scoped to the user) a repeated call gets the first
   * answer and charges nothing; the same key with another type or amount rejects with FST_QUOTA_IDEMPOTENCY_MISMATCH.
   */
  consume(userId: string, type: QuotaTypeKey, amount?: number, options?: ChargeCallOptions): Promise<Balance>
  /** What is left; `Infinity` when unlimited. */
  remaining(userId: string, type: QuotaTypeKey): Promise<number>
  /** Every balance of a user; for one who was never seen, those that the user would get. */
  all(userId: string): Promise<Balance[]>
  /**
   * Holds amounts for work that outlives a request: all charges or none (FST_QUOTA_EXCEEDED). They are held while this process lives,
   * or for `ttlMs` from now when given; then they are given back, and a late `commit` still charges.
   */
  reserve(userId: string, charges: ReserveCharges, options?: ReserveOptions): Promise<Reservation>
  /** Lowers a level by `amount` (a file was deleted), never below 0. Rejects with FST_QUOTA_KIND_MISMATCH for a flow. */
  credit(userId: string, type: QuotaTypeKey, amount: number, options?: ChargeCallOptions): Promise<Balance>
  /**
   * Sets a level to what was measured, even past the limit; what running work holds comes on top, and with that it may not pass 2^53−1
   * (FST_QUOTA_INVALID_AMOUNT). Rejects with FST_QUOTA_KIND_MISMATCH for a flow.
   */
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
  /**
   * Gives the user another limit (−1: unlimited), even below what is used. Rejects with FST_QUOTA_INVALID_LIMIT, and, unless `createUser` is set,
   * with FST_QUOTA_UNKNOWN_USER.
   */
  adjust(userId: string, type: QuotaTypeKey, newLimit: number, options?: AdjustOptions): Promise<Balance>
}

export function createMeter(context: MeterContext): Meter {
  const { types } = context
  /** For one call, whose statements have `storeTimeoutMs` together. */
  const once = (): MeterContext => ({ ...context, db: within(context.db, context.storeTimeoutMs) })
  const changing = <T>(userId: string, work: Promise<T>): Promise<T> => work.finally(() => context.changed(userId))
  const view = async (userId: string, type: string): Promise<Balance> => {
    requireUser(userId)
    return await viewBalance(once().db, userId, await types.get(type, 'asked for through app.quota'))
  }
  return {
    async check(userId, type, amount = 1) {
      requireAmount(amount)
      const { isActive } = await types.get(type, 'asked for through app.quota')
      const { periodStart: _, ...balance } = await view(userId, type)
      return { allowed: !isActive || fits(balance, amount), ...balance }
    },
    consume: (userId, type, amount = 1, options = {}) => consume(once(), userId, type, amount, options),
    async remaining(userId, type) {
      const { remaining } = await view(userId, type)
      return remaining < 0 ? Number.POSITIVE_INFINITY : remaining
    },
    async all(userId) {
      requireUser(userId)
      return (await viewQuotas(once().db, userId)).quotas.map(plain)
    },
    reserve: (userId, charges, options = {}) => reserveFor(context, userId, charges, options),
    credit: (userId, type, amount, options = {}) => changing(userId, credit(once(), userId, type, amount, options)),
    setUsage: (userId, type, amount, options = {}) => changing(userId, setUsage(once(), userId, type, amount, options)),
    reset: (userId, type, options = {}) => changing(userId, reset(context, userId, type, options)),
    adjust: (userId, type, newLimit, options = {}) => changing(userId, adjust(context, userId, type, newLimit, options))
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
    throw new FST_QUOTA_KIND_MISMATCH(
      type.key,
      type.kind,
      'it never resets; use setUsage to set it to the measured value'
    )
  if (!(await userExists(db, userId))) throw new FST_QUOTA_UNKNOWN_USER()
  return { quotasReset: await resetQuota(db, userId, key ?? null, by(options)) }
}

async function adjust(
  { db, types }: MeterContext,
  userId: string,
  key: string,
  newLimit: number,
  options: AdjustOptions
): Promise<Balance> {
  requireUser(userId)
  requireLimit(newLimit)
  const actor = by(options, ['createUser'])
  requireFlag('createUser', options.createUser)
  await types.get(key, 'to be adjusted')
  if (options.createUser) await ensureUser(db, userId)
  else if (!(await userExists(db, userId))) throw new FST_QUOTA_UNKNOWN_USER()
  const balance = await adjustQuota(db, userId, key, newLimit, actor)
  // Deleted just now.
  if (balance === undefined) throw new FST_QUOTA_UNKNOWN_USER()
  return balance
}

function by(options: ChangeOptions, more: readonly string[] = []): Actor {
  requireOptions(options, ['actor', 'reason', 'requestId', ...more])
  const { actor = APPLICATION, reason, requestId } = options
  requireText('actor', actor)
  requireText('reason', reason)
  requireText('requestId', requestId)
  return { actor, reason: reason ?? null, requestId: requestId ?? null }
}
