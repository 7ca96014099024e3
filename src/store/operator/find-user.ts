// Whether a user has a row: an operator's typo must not create one.
import type { Database } from '../database.ts'

export async function userExists(db: Database, userId: string): Promise<boolean> {
  const rows = await db.query('SELECT 1 FROM quota_users WHERE id = $1', [userId])
  return rows.length > 0
}
