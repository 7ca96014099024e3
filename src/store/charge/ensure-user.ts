// Opens the counters of a user seen for the first time, or of types that are newer than the user.
import { type PeriodUnit, periodContaining } from '../../quota/period.ts'
import { isEndless, periodOf, type QuotaKind } from '../../quota/quota-type.ts'
import { calendarOf } from '../calendar.ts'
import { type Database, dateOf, instantOf, ms, stateOf } from '../database.ts'
import { ENDLESS, STILL_ENDLESS } from './end-periods.ts'

const NEW_USER = `
INSERT INTO quota_users (id, created_at) VALUES ($1, coalesce($2::timestamptz, now())) ON CONFLICT (id) DO NOTHING`

const MISSING = `
SELECT t.id, t.kind, t.period, u.time_zone, to_jsonb(u.period_anchor) #>> '{}' AS period_anchor, ${ms('coalesce($3::timestamptz, now())')} AS at
  FROM quota_users u CROSS JOIN quota_types t
 WHERE u.id = $1 AND (t.is_active OR t.id = ANY ($2::text::int[]))
   AND NOT EXISTS (SELECT 1 FROM quota_limits l WHERE l.user_id = u.id AND l.quota_type_id = t.id)`

/**
 * In one order, so that two simultaneous first requests do not deadlock. What was held of a counter that is gone (DELETE in psql) must not
 * be released to the new one.
 */
const OPEN = `
WITH want AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($2::text::jsonb) AS w (quota_type_id int, period_start timestamptz, period_end timestamptz, is_endless boolean)
), ${ENDLESS}, counter AS (
  INSERT INTO quota_limits (user_id, quota_type_id, limit_amount, period_start, period_end)
  SELECT $1, t.id, t.default_limit, w.period_start, w.period_end FROM want w JOIN quota_types t ON t.id = w.quota_type_id
   WHERE ${STILL_ENDLESS}
   ORDER BY t.id
  ON CONFLICT (user_id, quota_type_id) DO NOTHING
  RETURNING quota_type_id, period_start, period_end
), orphan AS MATERIALIZED (
  SELECT r.id FROM quota_reservations r JOIN counter c ON c.quota_type_id = r.quota_type_id WHERE r.user_id = $1 ORDER BY r.id FOR UPDATE OF r
), unheld AS (
  DELETE FROM quota_reservations r USING orphan o WHERE r.user_id = $1 AND r.id = o.id
), opened AS (
  INSERT INTO quota_periods (user_id, quota_type_id, period_start, period_end) SELECT $1, quota_type_id, period_start, period_end FROM counter
)
SELECT ${STILL_ENDLESS} AS done`

interface MissingRow {
  id: number
  kind: QuotaKind
  period: PeriodUnit
  time_zone: string
  period_anchor: string | null
  at: number
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
    const want = missing.map(row => {
      const { start, end } = periodContaining(periodOf(row), calendarOf(row), dateOf(row.at))
      return { quota_type_id: row.id, period_start: start, period_end: end, is_endless: isEndless(row) }
    })
    const [opened] = await db.query<{ done: boolean }>(OPEN, [userId, JSON.stringify(want)])
    if (opened?.done) return
    // A type that did not reset when it was read now does.
  }
}
