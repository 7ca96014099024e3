// Takes an amount and charges it at once: counter, log row and idempotency key in one statement.
import type { Balance } from '../../quota/balance.ts'
import type { Metadata } from '../../quota/metadata.ts'
import type { Database } from '../database.ts'
import { ADMITTED_ROWS, type Admission, type AdmissionOrder, admit, admitting } from './admit.ts'

/**
 * The key is inserted after the counter is locked, contrary to the order in all other statements. That is safe: it is one row of each, and
 * whoever holds a key waits for nothing more, so there is no deadlock. A key that is already taken (23505) undoes the charge too.
 */
const CHARGE = `
WITH ${admitting({ hold: false, several: false })}, logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT $1, a.id, a.quota_type_id, a.amount, $4::text, $5::text::jsonb, a.admitted_at FROM admitted a
), remembered AS (
  INSERT INTO quota_idempotency_keys (user_id, key, quota_type_id, amount, balance)
  SELECT $1, $6::text, a.quota_type_id, a.amount,
         jsonb_build_object('limit', a.limit_amount, 'used', greatest(a.used_amount - a.reserved_amount, 0), 'reserved', a.reserved_amount,
                            'periodStart', a.period_start, 'resetsAt', a.period_end)
    FROM admitted a WHERE $6::text IS NOT NULL
)
${ADMITTED_ROWS}`

export interface ChargeOrder extends AdmissionOrder {
  endpoint: string | null
  metadata: Metadata
  idempotencyKey: string | null
}

export const charge = (db: Database, order: ChargeOrder): Promise<Admission> =>
  admit(db, CHARGE, order, [order.endpoint, JSON.stringify(order.metadata), order.idempotencyKey])

/** The first answer to an idempotency key, and the charge that it belongs to. */
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
