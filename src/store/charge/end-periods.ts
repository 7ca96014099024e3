// Ends the running periods of a type that never reset and from now on does, and lets no endless period begin meanwhile.
import type { Query } from '../database.ts'

/**
 * $1 the type. A separate statement, in the transaction that has changed the type and holds its row: whoever opened an endless period
 * earlier held that row, so this snapshot has the period; whoever would open one later waits for the row, and finds it changed. Each period
 * is cut at the clock time at which its counter is reached, rounded up: what was charged until then was admitted earlier, so its log row
 * falls into the period that is closed here.
 */
const END = `
UPDATE quota_limits l
   SET period_end = greatest(date_trunc('milliseconds', clock_timestamp()), l.period_start) + interval '1 millisecond'
 WHERE l.quota_type_id = $1 AND l.period_end IS NULL`

export async function endPeriods(query: Query, typeId: number): Promise<void> {
  await query(END, [typeId])
}

/** Long, because it ends a period for every user. */
export const END_DEADLINE_MS = 60_000

/** Whether a type's periods must be ended: it resets now and did not before. `changed` and `old` are its row after and before. */
export const startsAgain = (changed: string, old: string): string =>
  `${changed}.kind = 'flow' AND ${changed}.period <> 'never' AND coalesce(${old}.period, 'never') = 'never'`

/**
 * A CTE that follows `want`, the periods to open; `is_endless` marks those of a flow that have no end. Their types' rows are locked before any
 * counter, as they are when periods are ended. Other periods, nearly all, need no lock on the type: a new length applies only from their end on.
 */
export const ENDLESS = `
  endless AS MATERIALIZED (
    SELECT t.id FROM want w JOIN quota_types t ON t.id = w.quota_type_id
     WHERE w.is_endless AND t.period = 'never'
     ORDER BY t.id
       FOR SHARE OF t
  )`

/** Whether all of them are still endless: if not, a type has changed since it was read, and nothing may be opened. */
export const STILL_ENDLESS = '(SELECT count(*) FROM endless) = (SELECT count(*) FROM want WHERE is_endless)'
