// Deletes a user and all that belongs to it: counters, periods, reservations, log. The audit log keeps that it happened.

import { heldOf } from '../charge/held.ts'
import { type Database, iso, transaction } from '../database.ts'
import { type Actor, auditValues, RECORD_AUDIT } from '../record-audit.ts'
import { isLate, quarterOf } from '../rollup/mark-usage.ts'

/** From here on no counter is opened: its foreign key needs this row. */
const LOCK_USER = 'SELECT 1 FROM quota_users WHERE id = $1 FOR UPDATE'

/** Counters are locked before everything that depends on them, as in every statement. From here on nothing more is held. */
const LOCK_COUNTERS = 'SELECT 1 FROM quota_limits WHERE user_id = $1 ORDER BY quota_type_id FOR NO KEY UPDATE'

/**
 * The reservations have no foreign key. `mine` waits for statements that are making log rows of them, in the order in which these lock
 * them, and holds back later ones.
 */
const DELETE_USER = `
WITH mine AS MATERIALIZED (
  SELECT id FROM quota_reservations WHERE user_id = $1 ORDER BY id FOR UPDATE
), unheld AS (
  DELETE FROM quota_reservations r USING mine WHERE r.user_id = $1 AND r.id = mine.id
), counter AS MATERIALIZED (
  SELECT l.quota_type_id, l.limit_amount, greatest(l.used_amount - ${heldOf('l')}, 0) AS used
    FROM quota_limits l WHERE l.user_id = $1 AND (SELECT count(*) FROM mine) >= 0
), quotas AS MATERIALIZED (
  SELECT coalesce(jsonb_object_agg(t.type_key, jsonb_build_object('limit', c.limit_amount, 'used', c.used)), '{}') AS quotas
    FROM counter c JOIN quota_types t ON t.id = c.quota_type_id
), gone AS (
  DELETE FROM quota_users u USING quotas q WHERE u.id = $1 RETURNING u.*, q.quotas
), audited AS (
  ${RECORD_AUDIT} g.id, $2::text, $3::text, $4::text, 'delete_user', NULL,
         jsonb_build_object('time_zone', g.time_zone, 'period_anchor', g.period_anchor, 'created_at', ${iso('g.created_at')}, 'quotas', g.quotas), NULL
    FROM gone g
)
SELECT 1`

/** The log has no foreign key either. */
const DELETE_LOG = `
WITH unlogged AS (
  DELETE FROM usage_logs WHERE user_id = $1 RETURNING created_at
), unmarked AS (
  DELETE FROM quota_usage_marks WHERE user_id = $1 RETURNING at
), days AS (
  DELETE FROM quota_usage_days WHERE user_id = $1
)
SELECT DISTINCT ${iso('at')} AS at
  FROM (SELECT ${quarterOf('created_at')} AS at FROM unlogged WHERE ${isLate('created_at')} UNION ALL SELECT at FROM unmarked) c`

/** Under no user's id, since nothing is kept of the user. Twice where both deletions of the log found something of the same time. */
const MARK = `
INSERT INTO quota_usage_marks (user_id, at, transaction)
SELECT '', at, pg_current_xact_id()::text::bigint FROM jsonb_to_recordset($1::text::jsonb) AS m (at timestamptz)
ON CONFLICT DO NOTHING`

/** A log of a million rows takes its time, and it is all or nothing. */
const DEADLINE_MS = 10 * 60_000

/**
 * False when there was no such user. Requests that run meanwhile are no longer charged. The log is deleted first, because that may take
 * long and charges share their statements with other users'; and once more at the end, for what was written meanwhile.
 */
export const deleteUser = (db: Database, userId: string, by: Actor): Promise<boolean> =>
  transaction(
    db,
    async query => {
      if ((await query(LOCK_USER, [userId])).length === 0) return false
      await query(LOCK_COUNTERS, [userId])
      const changed = await query(DELETE_LOG, [userId])
      await query(DELETE_USER, [userId, ...auditValues(by)])
      changed.push(...(await query(DELETE_LOG, [userId])))
      if (changed.length > 0) await query(MARK, [JSON.stringify(changed)])
      return true
    },
    DEADLINE_MS
  )
