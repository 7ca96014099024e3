// One balance of a user, as it is now.
import type { Balance } from '../quota/balance.ts'
import type { QuotaType } from '../quota/quota-type.ts'
import type { Database } from '../store/database.ts'
import { viewQuotas } from '../store/operator/view-quotas.ts'

export async function viewBalance(db: Database, userId: string, type: QuotaType): Promise<Balance> {
  const { quotas } = await viewQuotas(db, userId, type.key)
  return quotas[0] === undefined ? unopened(type.key, type.defaultLimit) : plain(quotas[0])
}

/** Without the type's name, unit and kind. */
export const plain = ({ type, limit, used, reserved, remaining, periodStart, resetsAt }: Balance): Balance => ({
  type,
  limit,
  used,
  reserved,
  remaining,
  periodStart,
  resetsAt
})

/** For a type that is switched off and of which this user has no counter. */
const unopened = (type: string, limit: number): Balance => ({
  type,
  limit,
  used: 0,
  reserved: 0,
  remaining: limit,
  periodStart: new Date(0),
  resetsAt: null
})
