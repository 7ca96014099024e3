// Changes the amount of a charge whose real cost became known only after its log row was written.
import type { Balance } from '../../quota/balance.ts'
import type { Database } from '../database.ts'
import { markLate } from '../rollup/mark-usage.ts'
import { balancesByType, type CommittedCharge } from './commit.ts'
import type { CounterRow } from './counter-balance.ts'
import { ABOVE_WHAT_IS_HELD, giveBack, lockCounters, MOVED_ROWS, moveCounters, ONCE_LOCKED } from './move-counters.ts'

/**
 * Moves the counter by the difference from what the row says now, so that running it twice has the effect of once; does nothing where the
 * row is gone. Log rows are never updated, so a role needs no right to do so.
 */
const AMEND = `
WITH want AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($2::text::jsonb) AS w (id uuid, quota_type_id int, amount bigint, period_start timestamptz, metadata jsonb)
), ${lockCounters('want')}, former AS MATERIALIZED (
  DELETE FROM usage_logs l USING want w WHERE l.user_id = $1 AND l.id = w.id AND ${ONCE_LOCKED}
  RETURNING l.id, l.quota_type_id, l.amount, l.endpoint, l.created_at
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT $1, f.id, f.quota_type_id, w.amount, f.endpoint, w.metadata, f.created_at FROM former f JOIN want w ON w.id = f.id
  RETURNING created_at
), ${markLate('logged', '$1')}, change AS MATERIALIZED (
  SELECT w.quota_type_id, w.period_start, sum(coalesce(w.amount - f.amount, 0))::bigint AS used, 0::bigint AS gone
    FROM want w LEFT JOIN former f ON f.id = w.id GROUP BY 1, 2
), ${ABOVE_WHAT_IS_HELD}, ${moveCounters()}
${MOVED_ROWS}`

/** The balances afterwards, for those charges whose period still runs. */
export async function amend(
  db: Database,
  userId: string,
  charges: readonly CommittedCharge[]
): Promise<Map<string, Balance>> {
  const want = charges.map(({ id, typeId, amount, periodStart, metadata }) => ({
    id,
    quota_type_id: typeId,
    amount,
    period_start: periodStart,
    metadata
  }))
  return balancesByType(charges, await giveBack<CounterRow & { quota_type_id: number }>(db, AMEND, userId, want))
}
