// Ends the running periods of a type that never started again, and from now on does; and lets none without an end begin meanwhile.
import type { Query } from '../database.ts'

/**
 * $1 the type. A statement of its own, in the transaction that has changed the type and holds its row: whoever opened a period without an end before
 * held that row, so this snapshot has it, and whoever would open one later waits for the row, and finds it changed. Each counter is
 * cut at the clock of its own turn, rounded up: what was charged until then was admitted before, so its log row falls into the period that this
 * closes.
 */
const END = `
UPDATE quota_limits l
   SET period_end = greatest(date_trunc('milliseconds', clock_timestamp()), l.period_start) + interval '1 millisecond'
 WHERE l.quota_type_id = $1 AND l.period_end IS NULL`

export async function endPeriods(query: Query, typeId: number): Promise<void> {
  await query(END, [typeId])
}

/** A period that never ended ends for every user. */
export const END_DEADLINE_MS = 60_000

/** Whether a type is to be ended: it starts again now, and did not before. `changed` and `old` are its row after and before. */
export const startsAgain = (changed: string, old: string): string =>
  `${changed}.kind = 'flow' AND ${changed}.period <> 'never' AND coalesce(${old}.period, 'never') = 'never'`

/**
 * A CTE behind `want`, the periods to open, of which `is_endless` are those of a flow that has no end. Their types' rows are held, before any counter
 * is, as by who ends them. Other periods, nearly all, need no type held: what its next length is counts from their end.
 */
export const ENDLESS = `
  endless AS MATERIALIZED (
    SELECT t.id FROM want w JOIN quota_types t ON t.id = w.quota_type_id
     WHERE w.is_endless AND t.period = 'never'
     ORDER BY t.id
       FOR SHARE OF t
  )`

/** All of them still never end: else the types have changed since they were read, and nothing may be opened. */
export const STILL_ENDLESS = '(SELECT count(*) FROM endless) = (SELECT count(*) FROM want WHERE is_endless)'
