// What everything that changes the sums does under: one process at a time, and as long as it takes.
import { type Database, type Query, transaction } from '../database.ts'

/** Another process is at it: not an error, and not waited for. */
const LOCK = 'SELECT pg_try_advisory_xact_lock(7310584209462) AS mine'
/** A day of tens of millions of rows takes its time, and holds up nobody. */
const DEADLINE_MS = 10 * 60_000

/** False: another process was at it, and nothing was done. */
export const alone = (db: Database, work: (query: Query) => Promise<unknown>): Promise<boolean> =>
  transaction(
    db,
    async query => {
      const [lock] = await query<{ mine: boolean }>(LOCK)
      if (lock?.mine) await work(query)
      return lock?.mine ?? false
    },
    DEADLINE_MS
  )
