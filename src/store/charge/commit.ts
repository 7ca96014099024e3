// Charges what was held: the reservation becomes a log row, and can do so only once.
import type { Balance } from '../../quota/balance.ts'
import type { Metadata } from '../../quota/metadata.ts'
import type { Database } from '../database.ts'
import { markLate } from '../rollup/mark-usage.ts'
import { balanceOf, type CounterRow } from './counter-balance.ts'
import { isOneOf } from './held.ts'
import { LEAST_ID } from './held-since.ts'
import { lockCounters, MOVED_ROWS, moveCounters, ONCE_LOCKED } from './move-counters.ts'

/** What is known of a held charge, enough to charge it even after its reservation has expired. */
export interface HeldCharge {
  id: string
  typeId: number
  type: string
  periodStart: Date
  admittedAt: Date
}

export interface CommittedCharge extends HeldCharge {
  /** What it really cost; may differ from what was held. */
  amount: number
  heldAmount: number
  metadata: Metadata
}

/** Whether the user who has this id now ever had the period that admitted the charge. */
const KNOWS_PERIOD = `(
           EXISTS (SELECT 1 FROM quota_limits l WHERE l.user_id = $1 AND l.quota_type_id = w.quota_type_id AND l.period_start = w.period_start)
           OR EXISTS (SELECT 1 FROM quota_periods p WHERE p.user_id = $1 AND p.quota_type_id = w.quota_type_id AND p.period_start = w.period_start))`

/**
 * The log row's key is the reservation's id, so a second commit inserts nothing and moves nothing. An expired reservation is gone and
 * already released: then the full amount is charged, but not to another user who took the id after the first was deleted. Such a user was
 * recorded after the charge was admitted (rounding may add 1 ms), or never had the period that admitted it. The charge is then refused by
 * NOT NULL (23502), as is one whose counter is gone.
 */
const COMMIT = `
WITH want AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($2::text::jsonb)
    AS w (id uuid, quota_type_id int, amount bigint, period_start timestamptz, created_at timestamptz, metadata jsonb)
), ${lockCounters('want')}, held AS MATERIALIZED (
  DELETE FROM quota_reservations r WHERE ${isOneOf('want')} AND ${ONCE_LOCKED} RETURNING r.id, r.amount
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT CASE WHEN k.quota_type_id IS NULL
                OR h.id IS NULL AND u.id IS NOT NULL AND (u.created_at > w.created_at + interval '1 millisecond' OR NOT ${KNOWS_PERIOD}) THEN NULL ELSE $1 END,
         w.id, w.quota_type_id, w.amount, $3::text, w.metadata, w.created_at
    FROM want w
    LEFT JOIN locked k ON k.quota_type_id = w.quota_type_id
    LEFT JOIN quota_users u ON u.id = $1
    LEFT JOIN held h ON h.id = w.id
   ORDER BY w.id
  ON CONFLICT (user_id, id) DO NOTHING
  RETURNING id, amount, created_at
), ${markLate('logged', '$1')}, delta AS MATERIALIZED (
  SELECT w.quota_type_id, w.period_start, sum(coalesce(l.amount, 0) - coalesce(h.amount, 0))::bigint AS used, sum(coalesce(h.amount, 0))::bigint AS gone
    FROM want w LEFT JOIN logged l ON l.id = w.id LEFT JOIN held h ON h.id = w.id GROUP BY 1, 2
), ${moveCounters('$4::uuid')}
${MOVED_ROWS}`

/** The balances afterwards, for those charges whose period still runs. Rejects with SQLSTATE 23502 when the user was deleted. */
export async function commit(
  db: Database,
  userId: string,
  charges: readonly CommittedCharge[],
  endpoint: string | null,
  since = LEAST_ID
): Promise<Map<string, Balance>> {
  const want = charges.map(c => ({
    id: c.id,
    quota_type_id: c.typeId,
    amount: c.amount,
    period_start: c.periodStart,
    created_at: c.admittedAt,
    metadata: c.metadata
  }))
  const rows = await db.query<CounterRow & { quota_type_id: number }>(COMMIT, [
    userId,
    JSON.stringify(want),
    endpoint,
    since
  ])
  return balancesByType(charges, rows)
}

export function balancesByType(
  charges: readonly HeldCharge[],
  rows: readonly (CounterRow & { quota_type_id: number })[]
): Map<string, Balance> {
  const keys = new Map(charges.map(c => [c.typeId, c.type]))
  return new Map(
    rows.map(row => [keys.get(row.quota_type_id) as string, balanceOf(keys.get(row.quota_type_id) as string, row)])
  )
}
