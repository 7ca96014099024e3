// Levels: lowered by what was given back, or set to what was measured.

import type { Balance } from '../quota/balance.ts'
import { FST_QUOTA_KIND_MISMATCH } from '../quota/errors.ts'
import { boundMetadata } from '../quota/metadata.ts'
import { chargeId } from '../store/charge/charge-id.ts'
import type { LevelMove } from '../store/charge/set-level.ts'
import { requireAmount, requireIdempotencyKey, requireOptions, requireText, requireUser } from './arguments.ts'
import { CHARGE_CALL_FIELDS, type ChargeCallOptions, once } from './consume.ts'
import type { MeterContext } from './context.ts'
import { viewBalance } from './view.ts'

export const credit = (
  context: MeterContext,
  userId: string,
  key: string,
  amount: number,
  options: ChargeCallOptions
): Promise<Balance> => moveLevel(context, 'credit', userId, key, amount, options)

export const setUsage = (
  context: MeterContext,
  userId: string,
  key: string,
  amount: number,
  options: Omit<ChargeCallOptions, 'idempotencyKey'>
): Promise<Balance> => moveLevel(context, 'set', userId, key, amount, options)

/** What is set is not added to anything: nothing would be counted twice, so it takes no key. */
const FIELDS: Record<LevelMove['move'], readonly (keyof ChargeCallOptions)[]> = {
  credit: CHARGE_CALL_FIELDS,
  set: CHARGE_CALL_FIELDS.filter(field => field !== 'idempotencyKey')
}

async function moveLevel(
  { db, store, types }: MeterContext,
  move: LevelMove['move'],
  userId: string,
  key: string,
  amount: number,
  options: ChargeCallOptions
): Promise<Balance> {
  requireUser(userId)
  requireAmount(amount)
  requireOptions(options, FIELDS[move])
  requireText('endpoint', options.endpoint)
  requireIdempotencyKey(options.idempotencyKey)
  const type = await types.get(key, `named in app.quota.${move === 'credit' ? 'credit' : 'setUsage'}`)
  if (type.kind !== 'level')
    throw new FST_QUOTA_KIND_MISMATCH(
      key,
      type.kind,
      'only a level can be credited or set; a flow starts again with each period, or through reset'
    )
  const keyed = { userId, typeId: type.id, type: key, amount: -amount, idempotencyKey: options.idempotencyKey }
  const work = async (idempotencyKey: string | null) => {
    // A measurement is written all the same: it is what makes the level right again once the type is switched on.
    if (!type.isActive && move === 'credit') return await viewBalance(db, userId, type)
    const order = {
      userId,
      typeId: type.id,
      type: key,
      id: chargeId(),
      amount,
      move,
      endpoint: options.endpoint ?? null,
      metadata: boundMetadata(options.metadata),
      idempotencyKey
    }
    return await store.moveLevel(order)
  }
  return await once(db, keyed, work, { asksFirst: !type.isActive })
}
