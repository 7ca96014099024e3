// Takes an amount and charges it at once: counter, log row and idempotency key in one statement.
import type { Metadata } from '../../quota/metadata.ts'
import type { Database } from '../database.ts'
import { ADMITTED_ROWS, type Admission, type AdmissionOrder, admit, admitting } from './admit.ts'
import { answerOf } from './recall-charge.ts'

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
         ${answerOf('a.limit_amount', 'a.used_amount', 'a.reserved_amount', 'a.period_start', 'a.period_end')}
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
