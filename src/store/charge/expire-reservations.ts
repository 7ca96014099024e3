// Releases what nobody holds any more: reservations whose process died, or whose time is up.
import { type Database, instantOf } from '../database.ts'
import { lockCounters, moveCounters, ONCE_LOCKED } from './move-counters.ts'

const EXPIRE = `
WITH dead AS MATERIALIZED (
  SELECT r.quota_type_id FROM quota_reservations r WHERE r.user_id = $1 AND r.expires_at <= coalesce($2::timestamptz, now())
), ${lockCounters('dead')}, due AS MATERIALIZED (
  SELECT r.id FROM quota_reservations r
   WHERE r.user_id = $1 AND r.expires_at <= coalesce($2::timestamptz, now()) AND ${ONCE_LOCKED}
   ORDER BY r.id
     FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM quota_reservations r USING due WHERE r.user_id = $1 AND r.id = due.id
  RETURNING r.quota_type_id, r.period_start, r.amount
), delta AS MATERIALIZED (
  SELECT quota_type_id, period_start, -sum(amount)::bigint AS used, sum(amount)::bigint AS gone, count(*) AS n FROM gone GROUP BY 1, 2
), ${moveCounters()}
SELECT coalesce(sum(n), 0)::int AS expired FROM delta`

/** Releases one user's, and returns how many. Any number of processes may run it at once: each reservation is released once. */
export async function expireReservations(db: Database, userId: string, at?: Date): Promise<number> {
  const [row] = await db.query<{ expired: number }>(EXPIRE, [userId, instantOf(at)])
  return row?.expired ?? 0
}

const EXPIRED = `
SELECT DISTINCT user_id FROM quota_reservations
 WHERE expires_at <= coalesce($1::timestamptz, now()) AND user_id > $2 ORDER BY user_id LIMIT $3`

/** Users with expired reservations, in order, at most `limit`, those after `after`. The table holds only what runs now, so it is read whole. */
export async function listExpired(db: Database, limit: number, at?: Date, after = ''): Promise<string[]> {
  const rows = await db.query<{ user_id: string }>(EXPIRED, [instantOf(at), after, limit])
  return rows.map(row => row.user_id)
}
