// Users who lack the counter of an active type: not seen yet, or older than the type.
import type { Database } from '../database.ts'

/** At most `limit` ids, of all users or of those named. */
export async function listUsersWithoutLimits(db: Database, limit: number, ids?: readonly string[]): Promise<string[]> {
  const rows = await db.query<{ id: string }>(
    `SELECT u.id FROM quota_users u
      WHERE ($2::text IS NULL OR u.id IN (SELECT jsonb_array_elements_text($2::text::jsonb)))
        AND EXISTS (SELECT 1 FROM quota_types t
                     WHERE t.is_active AND NOT EXISTS (SELECT 1 FROM quota_limits l WHERE l.user_id = u.id AND l.quota_type_id = t.id))
      ORDER BY u.id LIMIT $1`,
    [limit, ids === undefined ? null : JSON.stringify(ids)]
  )
  return rows.map(row => row.id)
}
