// Records users with their calendar and address: new users, and what is newly given for known ones.
import type { Database } from '../database.ts'
import { type Actor, auditValues, RECORD_AUDIT, userDocument } from '../record-audit.ts'

/** Null is not given: a new user gets UTC and no anchor, a known one keeps what is there. */
export interface UserEntry {
  id: string
  email: string | null
  timeZone: string | null
  /** A day: `2026-01-31`. */
  periodAnchor: string | null
}

/**
 * Running periods keep their end: a changed calendar counts from the next one on. Users are locked first, in one order: what was there before is
 * then as the last change left it, and two files with the same users do not deadlock.
 */
const SET_USERS = `
WITH want AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS w (id text, email text, time_zone text, period_anchor date)
), old AS MATERIALIZED (
  SELECT id, email, time_zone, period_anchor FROM quota_users WHERE id IN (SELECT id FROM want) ORDER BY id FOR NO KEY UPDATE
), changed AS (
  UPDATE quota_users u
     SET email = coalesce(w.email, o.email), time_zone = coalesce(w.time_zone, o.time_zone), period_anchor = coalesce(w.period_anchor, o.period_anchor)
    FROM want w JOIN old o ON o.id = w.id
   WHERE u.id = w.id
     AND (coalesce(w.email, o.email), coalesce(w.time_zone, o.time_zone), coalesce(w.period_anchor, o.period_anchor)) IS DISTINCT FROM (o.email, o.time_zone, o.period_anchor)
  RETURNING u.*, o.email AS old_email, o.time_zone AS old_time_zone, o.period_anchor AS old_period_anchor
), audited AS (
  ${RECORD_AUDIT} c.id, $2::text, $3::text, $4::text, 'update_user', NULL,
         ${userDocument('c.old_email', 'c.old_time_zone', 'c.old_period_anchor')},
         ${userDocument('c.email', 'c.time_zone', 'c.period_anchor', 'c.old_email')}
    FROM changed c
), added AS (
  INSERT INTO quota_users (id, email, time_zone, period_anchor)
  SELECT w.id, w.email, coalesce(w.time_zone, 'UTC'), w.period_anchor FROM want w ORDER BY w.id
  ON CONFLICT (id) DO NOTHING
  RETURNING id
)
SELECT (SELECT count(*) FROM added)::int AS added, (SELECT count(*) FROM changed)::int AS changed`

/** How many are new, and how many were changed. No two entries may have the same id. */
export async function setUsers(
  db: Database,
  users: readonly UserEntry[],
  by: Actor
): Promise<{ added: number; changed: number }> {
  const want = users.map(u => ({ id: u.id, email: u.email, time_zone: u.timeZone, period_anchor: u.periodAnchor }))
  const [row] = await db.query<{ added: number; changed: number }>(SET_USERS, [
    JSON.stringify(want),
    ...auditValues(by)
  ])
  return row ?? { added: 0, changed: 0 }
}
