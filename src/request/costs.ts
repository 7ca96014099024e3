// What a request costs.
import type { FastifyRequest } from 'fastify'
import { isAmount, shown } from '../quota/amount.ts'
import { FST_QUOTA_AMOUNT_FUNCTION, FST_QUOTA_STORE } from '../quota/errors.ts'
import type { ChargeAmount } from '../quota/rule.ts'
import type { TypeCatalogue } from '../store/catalogue/type-catalogue.ts'
import type { ChargeCost } from '../store/charge/admit.ts'
import type { RequestMetering } from './match.ts'

/** The costs of meterings whose amounts are fixed, valid while the types are as they were. */
const fixed = new WeakMap<RequestMetering, { types: object; costs: readonly ChargeCost[] }>()

/** Without the types that the operator has switched off. Not a promise where nothing must be asked. */
export function costsOf(
  metering: RequestMetering,
  request: FastifyRequest,
  types: TypeCatalogue
): readonly ChargeCost[] | Promise<readonly ChargeCost[]> {
  const { known } = types
  if (known === undefined) return askedCosts(metering, request, types)
  const last = fixed.get(metering)
  if (last?.types === known) return last.costs
  const costs: ChargeCost[] = []
  for (const { type: key, amount } of metering.charges) {
    const type = known.get(key)
    if (type === undefined || typeof amount !== 'number') return askedCosts(metering, request, types)
    if (type.isActive) costs.push({ typeId: type.id, type: key, amount })
  }
  fixed.set(metering, { types: known, costs })
  return costs
}

async function askedCosts(
  metering: RequestMetering,
  request: FastifyRequest,
  types: TypeCatalogue
): Promise<ChargeCost[]> {
  const costs: ChargeCost[] = []
  for (const { type: key, amount } of metering.charges) {
    const type = await types.get(key, metering.source)
    if (type.isActive) costs.push({ typeId: type.id, type: key, amount: await amountOf(key, amount, request) })
  }
  return costs
}

/**
 * Throws FST_QUOTA_AMOUNT_FUNCTION: a cost that is unknown is the rule's fault, and never a default. An error that itself says how it is to be
 * answered is passed on: the store's, where the function asked `app.quota`, and one that has a status, such as a 413 of the application.
 */
async function amountOf(type: string, amount: ChargeAmount<FastifyRequest>, request: FastifyRequest): Promise<number> {
  if (typeof amount === 'number') return amount
  let value: unknown
  try {
    value = await amount(request)
  } catch (error) {
    if (error instanceof FST_QUOTA_STORE || hasStatus(error)) throw error
    throw new FST_QUOTA_AMOUNT_FUNCTION(type, 'threw', { cause: error })
  }
  if (!isAmount(value))
    throw new FST_QUOTA_AMOUNT_FUNCTION(type, `returned ${shown(value)}, which is not a whole number from 0 to 2^53−1`)
  return value
}

const hasStatus = (error: unknown): boolean =>
  error instanceof Error && Number.isInteger((error as { statusCode?: unknown }).statusCode)
