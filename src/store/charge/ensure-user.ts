// Opens the counters of a user seen for the first time, or of types that are newer than the user.
import { openingOf, type PeriodRow } from '../calendar.ts'
import { type Database, instantOf, ms, stateOf } from '../database.ts'
import { ENDLESS, STILL_ENDLESS } from './end-periods.ts'
import { PATIENCE } from './of-many.ts'

const NEW_USER = `
INSERT INTO quota_users (id, created_at) VALUES ($1, coalesce($2::timestamptz, now())) ON CONFLICT (id) DO NOTHING`

const MISSING = `
SELECT t.id, t.kind, t.period, u.time_zone, to_jsonb(u.period_anchor) #>> '{}' AS period_anchor, ${ms('coalesce($3::timestamptz, now())')} AS at
  FROM quota_users u CROSS JOIN quota_types t
 WHERE u.id = $1 AND (t.is_active OR t.id = ANY ($2::text::int[]))
   AND NOT EXISTS (SELECT 1 FROM quota_limits l WHERE l.user_id = u.id AND l.quota_type_id = t.id)`

/**
 * $1 the counters to open; $2 their user, or nothing where they are of many. In one order, so that two simultaneous first requests do not deadlock.
 * Among many, a user whom somebody else has locked, as to delete it, is skipped. What was held of a counter that is gone (DELETE in psql) must
 * not be released to the new one.
 */
export const openCounter = ({ ofOneUser }: { ofOneUser: boolean }): string => `
WITH ${ofOneUser ? '' : `${PATIENCE}, `}want AS MATERIALIZED (
  SELECT w.* FROM ${ofOneUser ? '' : 'patience, '}jsonb_to_recordset($1::text::jsonb)
    AS w (user_id text, quota_type_id int, period_start timestamptz, period_end timestamptz, is_endless boolean)
), ${ENDLESS}, ${ofOneUser ? '' : `${OWNER}, `}counter AS (
  INSERT INTO quota_limits (user_id, quota_type_id, limit_amount, period_start, period_end)
  SELECT ${ofOneUser ? '$2' : 'o.id'}, t.id, t.default_limit, w.period_start, w.period_end
    FROM want w ${ofOneUser ? '' : 'JOIN owner o ON o.id = w.user_id '}JOIN quota_types t ON t.id = w.quota_type_id
   WHERE ${STILL_ENDLESS}
   ORDER BY 1, 2
  ON CONFLICT (user_id, quota_type_id) DO NOTHING
  RETURNING user_id, quota_type_id, period_start, period_end
), orphan AS MATERIALIZED (
  ${ofOneUser ? ORPHAN_OF_ONE : ORPHAN_OF_MANY}
), unheld AS (
  DELETE FROM quota_reservations r USING orphan o WHERE r.user_id = ${ofOneUser ? '$2' : 'ANY (ARRAY[o.user_id])'} AND r.id = o.id
), opened AS (
  INSERT INTO quota_periods (user_id, quota_type_id, period_start, period_end)
  SELECT ${ofOneUser ? '$2' : 'user_id'}, quota_type_id, period_start, period_end FROM counter
)
SELECT ${STILL_ENDLESS} AS done`

const ORPHAN_OF_ONE = `SELECT r.user_id, r.id FROM quota_reservations r JOIN counter c ON c.quota_type_id = r.quota_type_id
   WHERE r.user_id = $2 ORDER BY r.id FOR UPDATE OF r`

/** Each user's are looked up by their key, even by a plan that was made while the table was empty. */
const ORPHAN_OF_MANY = `SELECT o.* FROM (SELECT user_id, array_agg(quota_type_id) AS types FROM counter GROUP BY 1 ORDER BY 1) c
   CROSS JOIN LATERAL (
     SELECT r.user_id, r.id FROM quota_reservations r WHERE r.user_id = c.user_id AND r.quota_type_id = ANY (c.types) ORDER BY r.id FOR UPDATE
   ) o`

const OWNER = `owner AS MATERIALIZED (
  SELECT u.id FROM (SELECT DISTINCT user_id FROM want) w JOIN quota_users u ON u.id = ANY (ARRAY[w.user_id])
     FOR KEY SHARE OF u SKIP LOCKED
)`

const OPEN = openCounter({ ofOneUser: true })

interface MissingRow extends PeriodRow {
  id: number
}

/** Gives the user the defaults of every active type, and of those in `typeIds`. A second caller changes nothing. */
export async function ensureUser(
  db: Database,
  userId: string,
  typeIds: readonly number[] = [],
  at?: Date
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    await db.query(NEW_USER, [userId, instantOf(at)])
    try {
      return await openMissing(db, userId, typeIds, at)
    } catch (error) {
      // The user was deleted between the two statements: start over.
      if (stateOf(error) !== '23503' || attempt === ATTEMPTS) throw error
    }
  }
}

const ATTEMPTS = 5

/** The same for a user who exists; one who was just deleted is not created again. */
export async function openCounters(db: Database, userId: string, typeIds: readonly number[] = []): Promise<void> {
  try {
    await openMissing(db, userId, typeIds)
  } catch (error) {
    if (stateOf(error) !== '23503') throw error
  }
}

async function openMissing(db: Database, userId: string, typeIds: readonly number[], at?: Date): Promise<void> {
  for (;;) {
    const missing = await db.query<MissingRow>(MISSING, [userId, `{${typeIds.join(',')}}`, instantOf(at)])
    if (missing.length === 0) return
    const want = missing.map(row => ({ quota_type_id: row.id, ...openingOf(row) }))
    const [opened] = await db.query<{ done: boolean }>(OPEN, [JSON.stringify(want), userId])
    if (opened?.done) return
    // A type that did not reset when it was read now does.
  }
}
