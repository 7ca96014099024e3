// Compares every counter with the log rows and reservations that it must be the sum of.
import { type Database, dateOf, ms } from '../database.ts'

/**
 * Gives `wrong`: of the counters that `where` selects, those that are not their sums; `c` is the counter, `t` its type. `used_amount` must
 * be the period's log rows plus its open reservations; for a level, all log rows. Periods whose log was pruned are left out.
 */
export const wrongCounters = (where: string): string => `
  counter AS (
    SELECT l.user_id, l.quota_type_id, l.period_start, NULL::timestamptz AS period_end, l.used_amount, true AS running
      FROM quota_limits l
    UNION ALL
    SELECT p.user_id, p.quota_type_id, p.period_start, p.period_end, p.used_amount, false
      FROM quota_periods p WHERE p.closed_at IS NOT NULL AND p.pruned_at IS NULL
  ), truth AS (
    SELECT c.*, t.type_key,
           coalesce((SELECT sum(u.amount) FROM usage_logs u
                      WHERE u.user_id = c.user_id AND u.quota_type_id = c.quota_type_id
                        AND (t.kind = 'level' OR (u.created_at >= c.period_start AND (c.period_end IS NULL OR u.created_at < c.period_end)))), 0) AS logged,
           coalesce((SELECT sum(r.amount) FROM quota_reservations r
                      WHERE r.user_id = c.user_id AND r.quota_type_id = c.quota_type_id AND r.period_start = c.period_start), 0) AS held
      FROM counter c JOIN quota_types t ON t.id = c.quota_type_id
     WHERE ${where}
  ), wrong AS (
    SELECT * FROM truth WHERE used_amount <> logged + held
  )`

/** What `discrepancyOf` reads. */
export const WRONG_COLUMNS = `user_id, type_key, ${ms('period_start')} AS period_start, used_amount, logged, held`

/** One statement, so one snapshot: requests that run meanwhile do not show up as differences. */
const RECONCILE = `
WITH ${wrongCounters('true')}
SELECT ${WRONG_COLUMNS} FROM wrong ORDER BY user_id, type_key, period_start`

/** A counter that is not the sum it must be. */
export interface Discrepancy {
  userId: string
  type: string
  periodStart: Date
  /** As stored: charged and held. */
  usedAmount: number
  /** The sum of the period's log rows. */
  logged: number
  /** The sum of its open reservations. */
  held: number
}

export interface WrongRow {
  user_id: string
  type_key: string
  period_start: number
  used_amount: number
  logged: number
  held: number
}

export const findDiscrepancies = async (db: Database): Promise<Discrepancy[]> =>
  (await db.query<WrongRow>(RECONCILE)).map(discrepancyOf)

export const discrepancyOf = (row: WrongRow): Discrepancy => ({
  userId: row.user_id,
  type: row.type_key,
  periodStart: dateOf(row.period_start),
  usedAmount: Number(row.used_amount),
  logged: Number(row.logged),
  held: Number(row.held)
})
