// The lock for whatever changes the sums: one process at a time, for up to ten minutes.
import { type Database, type Query, transaction } from '../database.ts'

const KEY = 7_310_584_209_462
/** Not mine: another process is at it. That is no error, and is not waited for. */
const LOCK = `SELECT pg_try_advisory_xact_lock(${KEY}) AS mine`
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

/** The same, once others are done. */
export const aloneAtLast = (db: Database, work: (query: Query) => Promise<unknown>): Promise<void> =>
  transaction(
    db,
    async query => {
      await query('SET LOCAL lock_timeout = 0')
      await query(`SELECT pg_advisory_xact_lock(${KEY})`)
      await work(query)
    },
    DEADLINE_MS
  )
