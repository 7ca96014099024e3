// Counts denials: one row per user, type and hour, however many there were.
import type { Database } from '../database.ts'

export interface DenialCount {
  userId: string
  /** The quota type's key. */
  type: string
  /** The hour's first instant, in UTC. */
  hour: Date
  denials: number
}

/**
 * In one order, so that processes that count the same users do not deadlock. Denials of a deleted user are dropped, also while the user is
 * being deleted: without the lock, the foreign key would wait for that as well, and then refuse the counts of all.
 */
const COUNT = `
INSERT INTO quota_denials (user_id, quota_type_id, hour, denials)
SELECT l.user_id, l.quota_type_id, d.hour, d.denials
  FROM jsonb_to_recordset($1::text::jsonb) AS d (user_id text, type text, hour timestamptz, denials bigint)
  JOIN quota_types t ON t.type_key = d.type
  JOIN quota_limits l ON l.user_id = d.user_id AND l.quota_type_id = t.id
 ORDER BY 1, 2, 3
   FOR KEY SHARE OF l
ON CONFLICT (user_id, quota_type_id, hour) DO UPDATE SET denials = quota_denials.denials + excluded.denials`

/** No two counts may have the same user, type and hour. */
export async function countDenials(db: Database, counts: readonly DenialCount[]): Promise<void> {
  const rows = counts.map(c => ({ user_id: c.userId, type: c.type, hour: c.hour, denials: c.denials }))
  await db.query(COUNT, [JSON.stringify(rows)])
}
