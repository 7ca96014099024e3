// Releases what was held. What is no longer held is left alone.
import type { Balance } from '../../quota/balance.ts'
import { uuidArray } from '../arrays.ts'
import type { Database } from '../database.ts'
import { balancesByType, type HeldCharge } from './commit.ts'
import type { CounterRow } from './counter-balance.ts'
import { isOneOf } from './held.ts'
import { LEAST_ID } from './held-since.ts'
import { lockCounters, MOVED_ROWS, moveCounters, ONCE_LOCKED } from './move-counters.ts'

const RELEASE = `
WITH want AS MATERIALIZED (
  SELECT unnest($2::text::uuid[]) AS id
), held AS MATERIALIZED (
  SELECT r.quota_type_id FROM quota_reservations r WHERE ${isOneOf('want')}
), ${lockCounters('held')}, gone AS (
  DELETE FROM quota_reservations r WHERE ${isOneOf('want')} AND ${ONCE_LOCKED}
  RETURNING r.quota_type_id, r.period_start, r.amount
), delta AS MATERIALIZED (
  SELECT quota_type_id, period_start, -sum(amount)::bigint AS used, sum(amount)::bigint AS gone FROM gone GROUP BY 1, 2
), ${moveCounters('$3::uuid')}
${MOVED_ROWS}`

/** The balances afterwards, for those charges whose period still runs. */
export async function release(
  db: Database,
  userId: string,
  charges: readonly HeldCharge[],
  since = LEAST_ID
): Promise<Map<string, Balance>> {
  const rows = await db.query<CounterRow & { quota_type_id: number }>(RELEASE, [
    userId,
    uuidArray(charges.map(c => c.id)),
    since
  ])
  return balancesByType(charges, rows)
}

/** The same, where it is not known whether anything was held. */
export async function releaseById(db: Database, userId: string, charges: readonly { id: string }[]): Promise<void> {
  await db.query(RELEASE, [userId, uuidArray(charges.map(c => c.id)), LEAST_ID])
}
