// Sets wrong counters to the sum that they must be, even while requests move them.
import { type Database, iso, transaction } from '../database.ts'
import { type Actor, auditValues, RECORD_AUDIT } from '../record-audit.ts'
import {
  type Discrepancy,
  discrepancyOf,
  findDiscrepancies,
  WRONG_COLUMNS,
  type WrongRow,
  wrongCounters
} from './reconcile.ts'

/**
 * A counter is locked by one statement and summed up by the next, whose snapshot is newer than the lock. One statement alone would write an
 * older sum: without what was charged while it waited.
 *
 * This relies on a rule: whatever changes what log rows and reservations sum up to moves the counter in the same statement and under its
 * lock, and whatever moves or closes a period holds the same lock: reserve, charge and hold-alike by their UPDATE, hold-many, settle-many,
 * charge-at-once and move-one-user before it; commit, amend, release, void and expire-reservations by `lockCounters`, also for a closed period;
 * set-level, open-period, end-periods and reset by their own. Only what makes a log row of a reservation of the same amount (charge-many) does
 * without. So whoever had the lock before is in the sums and in the counter. Whoever still waits for it is in neither, and goes on from the
 * newest row, which is the one written here.
 *
 * Locks: one counter, then its closed period, like all others, and never a reservation: the holder of these waits for nothing else. The
 * lock is an UPDATE's, which keeps out whatever moves the counter, but not the foreign keys of the denials that are counted.
 */
const LOCK = `
SELECT 1 FROM quota_limits l JOIN quota_types t ON t.id = l.quota_type_id
 WHERE l.user_id = $1 AND t.type_key = $2
   FOR NO KEY UPDATE OF l`

/** The counter of this period, running or closed: it may have been closed since it was found. */
const FIX = `
WITH ${wrongCounters('c.user_id = $1 AND t.type_key = $2 AND c.period_start = $3::timestamptz')}, checked AS MATERIALIZED (
  SELECT w.*,
         CASE WHEN logged < 0 THEN 'its log rows sum up to less than 0'
              WHEN logged + held > ${Number.MAX_SAFE_INTEGER} THEN 'its log rows and reservations sum up to more than 2^53−1' END AS obstacle
    FROM wrong w
), running AS (
  UPDATE quota_limits l SET used_amount = c.logged + c.held, updated_at = now()
    FROM checked c WHERE c.running AND c.obstacle IS NULL AND l.user_id = $1 AND l.quota_type_id = c.quota_type_id
), closed AS (
  UPDATE quota_periods p SET used_amount = c.logged + c.held
    FROM checked c
   WHERE NOT c.running AND c.obstacle IS NULL
     AND p.user_id = $1 AND p.quota_type_id = c.quota_type_id AND p.period_start = c.period_start
), audited AS (
  ${RECORD_AUDIT} $1, $4::text, $5::text, $6::text, 'reconcile', c.type_key,
         jsonb_build_object('used', c.used_amount - c.held, 'reserved', c.held, 'period_start', ${iso('c.period_start')}),
         jsonb_build_object('used', c.logged, 'reserved', c.held, 'period_start', ${iso('c.period_start')})
    FROM checked c WHERE c.obstacle IS NULL
)
SELECT ${WRONG_COLUMNS}, obstacle FROM checked`

/** A counter as it was when locked, and what became of it. */
export interface Fix extends Discrepancy {
  /** Why it cannot be written; null where it is `logged` and `held` now. */
  obstacle: string | null
}

/** Repairs what can be, one by one, and leaves out what somebody else has corrected meanwhile. */
export async function fixCounters(db: Database, by: Actor): Promise<Fix[]> {
  const fixes: Fix[] = []
  for (const discrepancy of await findDiscrepancies(db)) fixes.push(...(await fixCounter(db, discrepancy, by)))
  return fixes
}

/** Only the counter's own user waits while the log rows of its period are summed up. */
const fixCounter = (db: Database, { userId, type, periodStart }: Discrepancy, by: Actor): Promise<Fix[]> =>
  transaction(db, async query => {
    await query(LOCK, [userId, type])
    const rows = await query<FixRow>(FIX, [userId, type, periodStart.toISOString(), ...auditValues(by)])
    return rows.map(row => ({ ...discrepancyOf(row), obstacle: row.obstacle }))
  })

interface FixRow extends WrongRow {
  obstacle: string | null
}
