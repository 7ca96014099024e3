// Changes what is known of a user: the address, and the calendar of future periods.
import { type Database, dateOf, ms } from '../database.ts'
import { type Actor, auditValues, RECORD_AUDIT, userDocument } from '../record-audit.ts'

/** A missing field stays as it is; null clears it. */
export interface UserChange {
  email?: string | null
  timeZone?: string
  /** A day: `2026-01-31`. */
  periodAnchor?: string | null
}

export interface User {
  id: string
  email: string | null
  timeZone: string
  periodAnchor: string | null
  createdAt: Date
}

/** Running periods keep their end. */
const UPDATE_USER = `
WITH old AS MATERIALIZED (
  SELECT u.*, $2::text::jsonb AS change FROM quota_users u WHERE u.id = $1 FOR UPDATE
), changed AS (
  UPDATE quota_users u
     SET email = CASE WHEN jsonb_exists(o.change, 'email') THEN o.change->>'email' ELSE u.email END,
         time_zone = coalesce(o.change->>'timeZone', u.time_zone),
         period_anchor = CASE WHEN jsonb_exists(o.change, 'periodAnchor') THEN (o.change->>'periodAnchor')::date ELSE u.period_anchor END
    FROM old o WHERE u.id = o.id
  RETURNING u.*
), audited AS (
  ${RECORD_AUDIT} o.id, $3::text, $4::text, $5::text, 'update_user', NULL,
         ${userDocument('o.email', 'o.time_zone', 'o.period_anchor')}, ${userDocument('c.email', 'c.time_zone', 'c.period_anchor', 'o.email')}
    FROM old o JOIN changed c ON c.id = o.id
)
SELECT id, email, time_zone, to_jsonb(period_anchor) #>> '{}' AS period_anchor, ${ms('created_at')} AS created_at FROM changed`

/** The user afterwards; undefined when there is none. */
export async function updateUser(
  db: Database,
  userId: string,
  change: UserChange,
  by: Actor
): Promise<User | undefined> {
  const [row] = await db.query<{
    id: string
    email: string | null
    time_zone: string
    period_anchor: string | null
    created_at: number
  }>(UPDATE_USER, [userId, JSON.stringify(change), ...auditValues(by)])
  return (
    row && {
      id: row.id,
      email: row.email,
      timeZone: row.time_zone,
      periodAnchor: row.period_anchor,
      createdAt: dateOf(row.created_at)
    }
  )
}
