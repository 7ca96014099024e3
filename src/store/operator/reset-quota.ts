// Closes a running period early and opens a new one, which ends when the old one would have. Deletes no log row.
import { intArray } from '../arrays.ts'
import { openCounters } from '../charge/ensure-user.ts'
import { heldOf } from '../charge/held.ts'
import { openPeriods } from '../charge/open-period.ts'
import { type Database, dateOf, iso, ms, transaction } from '../database.ts'
import { type Actor, auditValues, RECORD_AUDIT } from '../record-audit.ts'

const RUNNING = `
SELECT l.quota_type_id, t.type_key, ${ms('l.period_start')} AS period_start
  FROM quota_limits l JOIN quota_types t ON t.id = l.quota_type_id
 WHERE l.user_id = $1 AND t.kind = 'flow' AND ($2::text IS NULL OR t.type_key = $2)`

/** A separate statement: what is held is read by the next one, whose snapshot is newer than the locks. */
const LOCK = `
SELECT 1 FROM quota_limits WHERE user_id = $1 AND quota_type_id = ANY ($2::text::int[]) ORDER BY quota_type_id FOR UPDATE`

/**
 * The cut is taken from the clock once the locks are held, and rounded up: whatever the old period admitted, it admitted before the cut, so
 * that log rows fall into the right period by their time alone. A counter whose period was changed since it was read, or has ended
 * meanwhile, is left for another attempt.
 */
const RESET = `
WITH want AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($2::text::jsonb) AS w (quota_type_id int, type_key text, closing timestamptz)
), locked AS MATERIALIZED (
  SELECT l.*, w.type_key
    FROM quota_limits l JOIN want w ON w.quota_type_id = l.quota_type_id AND w.closing = l.period_start
   WHERE l.user_id = $1
   ORDER BY l.quota_type_id
     FOR UPDATE OF l
), cut AS MATERIALIZED (
  SELECT greatest(date_trunc('milliseconds', clock_timestamp()), o.latest) + interval '1 millisecond' AS at FROM (SELECT max(period_start) AS latest FROM locked) o
), old AS MATERIALIZED (
  SELECT k.*, ${heldOf('k')} AS held, cut.at FROM locked k CROSS JOIN cut WHERE k.period_end IS NULL OR k.period_end > cut.at
), closed AS (
  INSERT INTO quota_periods (user_id, quota_type_id, period_start, period_end, limit_amount, used_amount, closed_at)
  SELECT o.user_id, o.quota_type_id, o.period_start, o.at, o.limit_amount, o.used_amount, o.at FROM old o
  ON CONFLICT (user_id, quota_type_id, period_start) DO UPDATE
     SET period_end = excluded.period_end, limit_amount = excluded.limit_amount, used_amount = excluded.used_amount,
         closed_at = excluded.closed_at
), opened AS (
  INSERT INTO quota_periods (user_id, quota_type_id, period_start, period_end) SELECT o.user_id, o.quota_type_id, o.at, o.period_end FROM old o
), fresh AS (
  UPDATE quota_limits l SET used_amount = 0, period_start = o.at, updated_at = now()
    FROM old o WHERE l.user_id = $1 AND l.quota_type_id = o.quota_type_id
  RETURNING l.quota_type_id
), audited AS (
  ${RECORD_AUDIT} $1, $3::text, $4::text, $5::text, 'reset', o.type_key,
         jsonb_build_object('used', greatest(o.used_amount - o.held, 0), 'reserved', o.held, 'period_start', ${iso('o.period_start')}),
         jsonb_build_object('used', 0, 'reserved', 0, 'period_start', ${iso('o.at')})
    FROM old o
)
SELECT quota_type_id FROM fresh`

/** Resets every flow of a user, or the one with this key, and returns the keys. A level is not reset: what is stored stays stored. */
export async function resetQuota(db: Database, userId: string, key: string | null, by: Actor): Promise<string[]> {
  await openCounters(db, userId)
  const done: string[] = []
  for (let attempt = 1; attempt <= 5; attempt++) {
    await openPeriods(db, userId)
    const running = await db.query<{ quota_type_id: number; type_key: string; period_start: number }>(RUNNING, [
      userId,
      key
    ])
    const open = running.filter(row => !done.includes(row.type_key))
    if (open.length === 0) return done
    const want = open.map(row => ({
      quota_type_id: row.quota_type_id,
      type_key: row.type_key,
      closing: dateOf(row.period_start)
    }))
    const fresh = await transaction(db, async query => {
      await query(LOCK, [userId, intArray(want.map(({ quota_type_id }) => quota_type_id))])
      return await query<{ quota_type_id: number }>(RESET, [userId, JSON.stringify(want), ...auditValues(by)])
    })
    done.push(...open.filter(row => fresh.some(f => f.quota_type_id === row.quota_type_id)).map(row => row.type_key))
  }
  return done
}
