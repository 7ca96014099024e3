// Keeps what running work holds: postpones the expiry of all reservations of a process in one statement.
import type { Database } from '../database.ts'
import { expiryOf } from './held.ts'

/** The reservations that running work holds: kept from expiring until they are dropped. */
export interface LiveReservations {
  add(userId: string, ids: readonly string[]): void
  drop(ids: readonly string[]): void
}

const RENEW = `
WITH want AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS w (user_id text, id uuid) ORDER BY user_id, id
), mine AS MATERIALIZED (
  SELECT r.user_id, r.id FROM quota_reservations r JOIN want w ON w.user_id = r.user_id AND w.id = r.id
   ORDER BY r.user_id, r.id
     FOR UPDATE OF r SKIP LOCKED
)
UPDATE quota_reservations r SET expires_at = ${expiryOf('r.created_at', '$2::int')}
  FROM mine WHERE r.user_id = mine.user_id AND r.id = mine.id`

/** A reservation that is being settled or released at this moment is skipped. `deadlineMs` defaults to the database's own. */
export async function renewReservations(
  db: Database,
  held: readonly { userId: string; id: string }[],
  leaseMs: number,
  deadlineMs?: number
): Promise<void> {
  await db.query(RENEW, [JSON.stringify(held.map(h => ({ user_id: h.userId, id: h.id }))), leaseMs], deadlineMs)
}
