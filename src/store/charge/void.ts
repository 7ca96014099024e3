// Undoes charges whose reply turned out differently after all: held or charged, they are given back.

import type { Database } from '../database.ts'
import { markLate } from '../rollup/mark-usage.ts'
import type { HeldCharge } from './commit.ts'
import { isOneOf } from './held.ts'
import { ABOVE_WHAT_IS_HELD, giveBack, lockCounters, MOVED_ROWS, moveCounters, ONCE_LOCKED } from './move-counters.ts'

const VOID = `
WITH want AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($2::text::jsonb) AS w (id uuid, quota_type_id int, period_start timestamptz)
), ${lockCounters('want')}, held AS MATERIALIZED (
  DELETE FROM quota_reservations r WHERE ${isOneOf('want')} AND ${ONCE_LOCKED} RETURNING r.id, r.amount
), unlogged AS (
  DELETE FROM usage_logs l USING want w WHERE l.user_id = $1 AND l.id = w.id AND (SELECT count(*) FROM held) >= 0 RETURNING l.id, l.amount, l.created_at
), ${markLate('unlogged', '$1')}, change AS MATERIALIZED (
  SELECT w.quota_type_id, w.period_start, -sum(coalesce(u.amount, 0) + coalesce(h.amount, 0))::bigint AS used, sum(coalesce(h.amount, 0))::bigint AS gone
    FROM want w LEFT JOIN unlogged u ON u.id = w.id LEFT JOIN held h ON h.id = w.id GROUP BY 1, 2
), ${ABOVE_WHAT_IS_HELD}, ${moveCounters()}
${MOVED_ROWS}`

export async function voidCharges(db: Database, userId: string, charges: readonly HeldCharge[]): Promise<void> {
  const want = charges.map(c => ({ id: c.id, quota_type_id: c.typeId, period_start: c.periodStart }))
  await giveBack(db, VOID, userId, want)
}
