// Releases what was held. What is no longer held is left alone.
import type { Balance } from '../../quota/balance.ts'
import { uuidArray } from '../arrays.ts'
import type { Database } from '../database.ts'
import type { CounterRow } from './admit.ts'
import { balancesByType, type HeldCharge } from './commit.ts'
import { lockCounters, MOVE_COUNTERS, MOVED_ROWS, ONCE_LOCKED } from './move-counters.ts'

const RELEASE = `
WITH held AS MATERIALIZED (
  SELECT r.quota_type_id FROM quota_reservations r WHERE r.user_id = $1 AND r.id = ANY ($2::text::uuid[])
), ${lockCounters('held')}, gone AS (
  DELETE FROM quota_reservations r WHERE r.user_id = $1 AND r.id = ANY ($2::text::uuid[]) AND ${ONCE_LOCKED}
  RETURNING r.quota_type_id, r.period_start, r.amount
), delta AS MATERIALIZED (
  SELECT quota_type_id, period_start, -sum(amount)::bigint AS used, sum(amount)::bigint AS gone FROM gone GROUP BY 1, 2
), ${MOVE_COUNTERS}
${MOVED_ROWS}`

/** The balances afterwards, for those charges whose period still runs. */
export async function release(
  db: Database,
  userId: string,
  charges: readonly HeldCharge[]
): Promise<Map<string, Balance>> {
  const rows = await db.query<CounterRow & { quota_type_id: number }>(RELEASE, [
    userId,
    uuidArray(charges.map(c => c.id))
  ])
  return balancesByType(charges, rows)
}

/** The same, where it is not known whether anything was held. */
export async function releaseById(db: Database, userId: string, charges: readonly { id: string }[]): Promise<void> {
  await db.query(RELEASE, [userId, uuidArray(charges.map(c => c.id))])
}
