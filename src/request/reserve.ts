// Takes what a request costs before its handler runs.
import type { FastifyRequest } from 'fastify'
import { isAmount } from '../quota/amount.ts'
import { FST_QUOTA_AMOUNT_FUNCTION } from '../quota/errors.ts'
import type { ChargeAmount } from '../quota/rule.ts'
import type { WantedCharge } from '../store/admit.ts'
import { chargeId } from '../store/charge-id.ts'
import type { TypeCatalogue } from '../store/type-catalogue.ts'
import type { RequestMetering } from './match.ts'

/** The charges of this request, each with a new id. A type that the operator has switched off is not charged. At once where nothing must be asked. */
export function wantedCharges(
  metering: RequestMetering,
  request: FastifyRequest,
  types: TypeCatalogue
): WantedCharge[] | Promise<WantedCharge[]> {
  const wanted: WantedCharge[] = []
  for (const { type: key, amount } of metering.charges) {
    const type = types.known(key)
    if (type === undefined || typeof amount !== 'number') return askedCharges(metering, request, types)
    if (type.isActive) wanted.push({ id: chargeId(), typeId: type.id, type: key, amount })
  }
  return wanted
}

async function askedCharges(
  metering: RequestMetering,
  request: FastifyRequest,
  types: TypeCatalogue
): Promise<WantedCharge[]> {
  const wanted: WantedCharge[] = []
  for (const { type: key, amount } of metering.charges) {
    const type = await types.get(key, metering.source)
    if (type.isActive)
      wanted.push({ id: chargeId(), typeId: type.id, type: key, amount: await amountOf(key, amount, request) })
  }
  return wanted
}

/** Throws FST_QUOTA_AMOUNT_FUNCTION: a cost that is unknown is the rule's fault, and never a default. */
async function amountOf(type: string, amount: ChargeAmount<FastifyRequest>, request: FastifyRequest): Promise<number> {
  if (typeof amount === 'number') return amount
  let value: unknown
  try {
    value = await amount(request)
  } catch (error) {
    throw new FST_QUOTA_AMOUNT_FUNCTION(type, 'threw', { cause: error })
  }
  if (!isAmount(value))
    throw new FST_QUOTA_AMOUNT_FUNCTION(type, `gave ${String(value)}, which is no whole number from 0 to 2^53−1`)
  return value
}
