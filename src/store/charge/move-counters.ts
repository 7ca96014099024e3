// How settled work moves the counters: those of the running period, or of the closed one that admitted it.
import { type Database, ms, stateOf, transaction } from '../database.ts'
import { heldOf } from './held.ts'

/**
 * $1 user; needs `delta (quota_type_id, period_start, used, gone)` with one row per period, since an UPDATE moves a row only once; `gone`
 * is what this statement took from the reservations. A reservation belongs to the period that admitted it: where the counter has since gone
 * on to the next one, the closed period's row is moved instead. The counters are locked first, in one order, and a closed period is moved
 * only under its counter's lock. The period's row is read under a lock too: a period that closed after this statement began is empty in its
 * snapshot, and PostgreSQL checks the CHECK constraints on a sum with the snapshot's row before it looks for a newer one. What is told to be held
 * is summed up from the id `since` on.
 */
export const moveCounters = (since?: string): string => `
  running AS (
    UPDATE quota_limits l
       SET used_amount = l.used_amount + d.used, updated_at = now()
      FROM delta d JOIN locked k ON k.quota_type_id = d.quota_type_id AND k.period_start = d.period_start
     WHERE l.user_id = $1 AND l.quota_type_id = d.quota_type_id
    RETURNING l.quota_type_id, l.limit_amount, l.used_amount, greatest(${heldOf('l', 'l.user_id', since)} - d.gone, 0) AS reserved_amount, l.period_start, l.period_end
  ), closing AS MATERIALIZED (
    SELECT p.quota_type_id, p.period_start, p.used_amount + d.used AS used_amount
      FROM delta d
      JOIN locked k ON k.quota_type_id = d.quota_type_id AND k.period_start <> d.period_start
      JOIN quota_periods p ON p.user_id = $1 AND p.quota_type_id = d.quota_type_id AND p.period_start = d.period_start
     ORDER BY p.quota_type_id, p.period_start
       FOR UPDATE OF p
  ), closed AS (
    UPDATE quota_periods p SET used_amount = c.used_amount
      FROM closing c WHERE p.user_id = $1 AND p.quota_type_id = c.quota_type_id AND p.period_start = c.period_start
    RETURNING p.quota_type_id
  )`

/**
 * Makes `delta` from a `change` of the same columns, where what was charged is given back. A level that was set lower since may be too low
 * for this: below what is held, the counter would become negative once that is released. So it is refused now (23514), by the CHECK that
 * the counter is not below 0. What is held is as of the statement's start: a level that was moved while this waited for the lock is refused
 * too, and `giveBack` looks again. A flow always has what is given back.
 */
export const ABOVE_WHAT_IS_HELD = `
  delta AS MATERIALIZED (
    SELECT g.quota_type_id, g.period_start, g.gone,
           CASE WHEN t.kind = 'level' AND g.used < 0
                 AND (k.used_amount + g.used < ${heldOf('k', '$1')} - g.gone OR k.place <> s.ctid) THEN -1 - k.used_amount ELSE g.used END AS used
      FROM change g
      LEFT JOIN locked k ON k.quota_type_id = g.quota_type_id AND k.period_start = g.period_start
      LEFT JOIN quota_limits s ON s.user_id = $1 AND s.quota_type_id = g.quota_type_id
      LEFT JOIN quota_types t ON t.id = g.quota_type_id
  )`

/** The counters that were moved and still run. */
export const MOVED_ROWS = `
  SELECT quota_type_id, limit_amount, used_amount, reserved_amount, ${ms('period_start')} AS period_start, ${ms('period_end')} AS period_end FROM running`

/**
 * $1 user. The counters of the types in `named`, locked before any reservation or log row is touched: a deletion of the user holds them,
 * and a statement that held a reservation and waited for its counter would deadlock with the deletion, which waits for the reservation.
 */
export const lockCounters = (named: string): string => `
  locked AS MATERIALIZED (
    SELECT l.quota_type_id, l.period_start, l.used_amount, l.ctid AS place FROM quota_limits l
     WHERE l.user_id = $1 AND l.quota_type_id IN (SELECT quota_type_id FROM ${named})
     ORDER BY l.quota_type_id
       FOR UPDATE
  )`

/** Makes a step wait for `locked`. */
export const ONCE_LOCKED = '(SELECT count(*) FROM locked) >= 0'

const LOCK = `WITH ${lockCounters('jsonb_to_recordset($2::text::jsonb) AS w (quota_type_id int)')} SELECT FROM locked`

/** Runs a statement with ABOVE_WHAT_IS_HELD. Where that is refused, it is run once more, after another that has waited for the lock. */
export async function giveBack<Row>(
  db: Database,
  statement: string,
  userId: string,
  want: readonly object[]
): Promise<Row[]> {
  const values = [userId, JSON.stringify(want)]
  try {
    return await db.query<Row>(statement, values)
  } catch (error) {
    if (stateOf(error) !== '23514') throw error
    return await transaction(db, async query => {
      await query(LOCK, values)
      return await query<Row>(statement, values)
    })
  }
}
