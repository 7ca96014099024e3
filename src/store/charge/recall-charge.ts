// What is remembered of an idempotency key: the first answer, and the charge that it belongs to.
import type { Balance } from '../../quota/balance.ts'
import type { Database } from '../database.ts'

/** SQL: the answer as it is kept, of a counter whose `used` includes what is held. */
export const answerOf = (limit: string, used: string, held: string, periodStart: string, periodEnd: string): string =>
  `jsonb_build_object('limit', ${limit}, 'used', greatest(${used} - (${held}), 0), 'reserved', greatest(${held}, 0),
                            'periodStart', ${periodStart}, 'resetsAt', ${periodEnd})`

export interface RememberedCharge {
  typeId: number
  amount: number
  balance: Pick<Balance, 'limit' | 'used' | 'reserved' | 'periodStart' | 'resetsAt'>
}

export async function recallCharge(
  db: Database,
  userId: string,
  idempotencyKey: string
): Promise<RememberedCharge | undefined> {
  const [row] = await db.query<{ quota_type_id: number; amount: number; balance: string }>(
    'SELECT quota_type_id, amount, balance::text AS balance FROM quota_idempotency_keys WHERE user_id = $1 AND key = $2',
    [userId, idempotencyKey]
  )
  if (row === undefined) return undefined
  const { limit, used, reserved, periodStart, resetsAt } = JSON.parse(row.balance) as Record<
    string,
    string | number | null
  >
  return {
    typeId: row.quota_type_id,
    amount: Number(row.amount),
    balance: {
      limit: Number(limit),
      used: Number(used),
      reserved: Number(reserved),
      periodStart: new Date(periodStart as string),
      resetsAt: resetsAt === null ? null : new Date(resetsAt as string)
    }
  }
}
