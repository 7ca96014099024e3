// Forgets idempotency keys that no retry will send again.
import type { Database } from '../database.ts'

const PRUNE = `
DELETE FROM quota_idempotency_keys k
 USING (SELECT user_id, key FROM quota_idempotency_keys WHERE created_at < now() - interval '24 hours' LIMIT 1000 FOR UPDATE SKIP LOCKED) old
 WHERE k.user_id = old.user_id AND k.key = old.key
RETURNING 1`

/** Deletes at most a thousand that are older than a day, and none that another process is at; returns how many. */
export async function pruneIdempotencyKeys(db: Database): Promise<number> {
  return (await db.query(PRUNE)).length
}
