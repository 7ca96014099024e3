// Deletes log rows that are older than an application wants to keep them, a few at a time.

import { openPeriods } from '../charge/open-period.ts'
import { type Database, dateOf, ms, transaction } from '../database.ts'
import type { LogPosition } from '../operator/list-usage.ts'
import { markLate } from '../rollup/mark-usage.ts'

/** Rows that are looked at in one statement. */
const BATCH = 1000
/** Not mine: another process is at it. */
const LOCK = 'SELECT pg_try_advisory_xact_lock(7310584209464) AS mine'

/** $1 the instant, $2 and $3 the position. */
const OLD = `
  SELECT u.user_id, u.id, u.quota_type_id, u.created_at FROM usage_logs u
   WHERE u.created_at < $1::timestamptz AND (u.created_at, u.id) > ($2::timestamptz, $3::text::uuid)
   ORDER BY u.created_at, u.id
   LIMIT ${BATCH}`

/** Users who stayed away: their last period has ended, and nobody has closed it. */
const ENDED = `
SELECT DISTINCT l.user_id
  FROM (${OLD}) o JOIN quota_limits l ON l.user_id = o.user_id AND l.quota_type_id = o.quota_type_id
 WHERE l.period_end <= now()`

/**
 * Keeps the rows that a counter must still be the sum of: those of a level, and of a running period. A closed period keeps its figures in
 * its own row, which from now on says that they can no longer be compared with the log. Rows whose user is gone are deleted too.
 */
const PRUNE = `
WITH old AS MATERIALIZED (${OLD}
), dead AS MATERIALIZED (
  SELECT o.user_id, o.id, p.quota_type_id, p.period_start
    FROM old o
    JOIN quota_types t ON t.id = o.quota_type_id
    LEFT JOIN quota_periods p ON p.user_id = o.user_id AND p.quota_type_id = o.quota_type_id
                             AND p.closed_at IS NOT NULL AND p.period_start <= o.created_at AND p.period_end > o.created_at
   WHERE t.kind = 'flow' AND p.period_start IS NOT NULL
      OR NOT EXISTS (SELECT 1 FROM quota_limits l WHERE l.user_id = o.user_id AND l.quota_type_id = o.quota_type_id)
), gone AS (
  DELETE FROM usage_logs u USING dead d WHERE u.user_id = d.user_id AND u.id = d.id RETURNING u.user_id, u.created_at
), ${markLate('gone')}, told AS (
  UPDATE quota_periods p SET pruned_at = now() FROM dead d
   WHERE p.user_id = d.user_id AND p.quota_type_id = d.quota_type_id AND p.period_start = d.period_start AND p.pruned_at IS NULL
)
SELECT (SELECT count(*) FROM gone)::int AS deleted, (SELECT count(*) FROM old)::int AS seen, ${ms('o.created_at')} AS created_at, o.id::text AS id
  FROM old o ORDER BY o.created_at DESC, o.id DESC LIMIT 1`

const BEGINNING: LogPosition = { createdAt: new Date(0), id: '00000000-0000-0000-0000-000000000000' }

interface Pruned {
  deleted: number
  /** Where to go on; undefined: there is nothing more, or another process is at it. */
  next: LogPosition | undefined
  /** Why users' ended periods could not be closed, as with an invalid time zone; their rows are kept. */
  errors: unknown[]
}

/** Looks at a thousand rows created before `before`, from a position on. */
export async function pruneUsage(db: Database, before: Date, after: LogPosition = BEGINNING): Promise<Pruned> {
  const values = [before.toISOString(), after.createdAt.toISOString(), after.id]
  const errors: unknown[] = []
  for (const { user_id } of await db.query<{ user_id: string }>(ENDED, values))
    await openPeriods(db, user_id).catch(error => errors.push(error))
  const { deleted, next } = await pruneClosed(db, values)
  return { deleted, next, errors }
}

const pruneClosed = (db: Database, values: string[]): Promise<Omit<Pruned, 'errors'>> =>
  transaction(db, async query => {
    const [lock] = await query<{ mine: boolean }>(LOCK)
    if (!lock?.mine) return { deleted: 0, next: undefined }
    const [row] = await query<{ deleted: number; seen: number; created_at: number; id: string }>(PRUNE, values)
    if (row === undefined) return { deleted: 0, next: undefined }
    const next = row.seen < BATCH ? undefined : { createdAt: dateOf(row.created_at), id: row.id }
    return { deleted: row.deleted, next }
  })

/** Forgets how often users were refused; a thousand rows at a time, and none that another process is at. */
export async function pruneDenials(db: Database, before: Date): Promise<number> {
  const rows = await db.query(
    `DELETE FROM quota_denials d
      USING (SELECT user_id, quota_type_id, hour FROM quota_denials WHERE hour < $1::timestamptz LIMIT ${BATCH} FOR UPDATE SKIP LOCKED) old
      WHERE d.user_id = old.user_id AND d.quota_type_id = old.quota_type_id AND d.hour = old.hour
      RETURNING 1`,
    [before.toISOString()]
  )
  return rows.length
}
