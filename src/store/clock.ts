// The one clock: the database's.
import { type Database, dateOf, ms } from './database.ts'

export async function clockOf(db: Database): Promise<Date> {
  const [row] = await db.query<{ at: number }>(`SELECT ${ms('now()')} AS at`)
  return dateOf((row as { at: number }).at)
}
