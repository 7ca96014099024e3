// Charges at once, and only once for an idempotency key.

import { type Balance, remainingOf } from '../quota/balance.ts'
import { FST_QUOTA_EXCEEDED, FST_QUOTA_IDEMPOTENCY_MISMATCH, FST_QUOTA_STORE } from '../quota/errors.ts'
import { deniedEvent } from '../quota/events.ts'
import { boundMetadata, type Metadata } from '../quota/metadata.ts'
import type { Admission } from '../store/charge/admit.ts'
import { chargeId } from '../store/charge/charge-id.ts'
import { recallCharge } from '../store/charge/recall-charge.ts'
import { type Database, stateOf } from '../store/database.ts'
import { requireAmount, requireIdempotencyKey, requireOptions, requireText, requireUser } from './arguments.ts'
import type { MeterContext } from './context.ts'
import { viewBalance } from './view.ts'

export interface ChargeCallOptions {
  /** Where the charge came from, for the usage log: a route as declared, a job's name. */
  endpoint?: string
  /** Goes into the usage log; at most 8 levels and 4 KiB of JSON. */
  metadata?: Metadata
  /** 1–255 characters, scoped to the user, remembered for 24 hours. */
  idempotencyKey?: string
}

export const CHARGE_CALL_FIELDS = [
  'endpoint',
  'metadata',
  'idempotencyKey'
] as const satisfies (keyof ChargeCallOptions)[]

export async function consume(
  { db, store, types, count }: MeterContext,
  userId: string,
  key: string,
  amount: number,
  options: ChargeCallOptions
): Promise<Balance> {
  requireUser(userId)
  requireAmount(amount)
  requireOptions(options, CHARGE_CALL_FIELDS)
  requireText('endpoint', options.endpoint)
  requireIdempotencyKey(options.idempotencyKey)
  const type = await types.get(key, 'charged through app.quota.consume')
  const endpoint = options.endpoint ?? null
  const keyed = { userId, typeId: type.id, type: key, amount, idempotencyKey: options.idempotencyKey }
  let denied: (Admission & { admitted: false }) | undefined
  try {
    const work = async (idempotencyKey: string | null) => {
      if (!type.isActive) return await viewBalance(db, userId, type)
      const charges = [{ id: chargeId(), typeId: type.id, type: key, amount }]
      const metadata = boundMetadata(options.metadata)
      const admission = await store.charge({ userId, charges, endpoint, metadata, idempotencyKey })
      if (admission === undefined) return undefined
      if (admission.admitted) {
        const balance = { ...admission.charges[0]!.balance }
        count({ name: 'charged', userId, endpoint, charges: [{ type: key, amount, remaining: balance.remaining }] })
        return balance
      }
      denied = admission
      throw new FST_QUOTA_EXCEEDED(admission.violations)
    }
    return await once(db, keyed, work, { asksFirst: !type.isActive })
  } catch (error) {
    // Not counted where the key's first answer was given instead.
    if (denied !== undefined && error instanceof FST_QUOTA_EXCEEDED)
      count(deniedEvent(userId, endpoint, denied, error.statusCode as number))
    throw error
  }
}

interface KeyedCharge {
  userId: string
  typeId: number
  type: string
  /** Signed: what it adds to the use. */
  amount: number
  idempotencyKey: string | undefined
}

/**
 * Gives the first answer again where the key is known, even when another call has only just used it: then the key is taken (23505), or
 * that call took the last there was. `work` may give undefined where it is known: then it need not be looked for first.
 */
export async function once(
  db: Database,
  keyed: KeyedCharge,
  work: (key: string | null) => Promise<Balance | undefined>,
  { asksFirst }: { asksFirst: boolean }
): Promise<Balance> {
  const { userId, idempotencyKey } = keyed
  if (idempotencyKey === undefined) return (await work(null)) as Balance
  const recall = async () => answer(await recallCharge(db, userId, idempotencyKey), keyed)
  for (let attempt = 1; ; attempt++) {
    const first = asksFirst || attempt > 1 ? await recall() : undefined
    if (first !== undefined) return first
    try {
      const answered = (await work(idempotencyKey)) ?? (await recall())
      if (answered !== undefined) return answered
    } catch (error) {
      const isTaken = stateOf(error) === '23505'
      const answered = isTaken || error instanceof FST_QUOTA_EXCEEDED ? await recall() : undefined
      if (answered !== undefined) return answered
      if (!isTaken) throw error
    }
    // Taken, but gone again, with its user or its day, before it could be read: nothing was charged.
    if (attempt === ATTEMPTS)
      throw new FST_QUOTA_STORE('the idempotency key was forgotten each time before its answer was read')
  }
}

const ATTEMPTS = 5

function answer(
  first: Awaited<ReturnType<typeof recallCharge>>,
  { type, typeId, amount }: KeyedCharge
): Balance | undefined {
  if (first === undefined) return undefined
  if (first.typeId !== typeId || first.amount !== amount) throw new FST_QUOTA_IDEMPOTENCY_MISMATCH()
  const { limit, used, reserved, periodStart, resetsAt } = first.balance
  // In the order of the first answer, so that both are the same text as JSON.
  return { type, limit, used, reserved, remaining: remainingOf(limit, used, reserved), periodStart, resetsAt }
}
