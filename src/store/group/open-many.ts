// Opens the counters of many users in a few statements, and rolls over their ended periods: what everybody needs at once when a day or a month begins,
// or when a service opens.
import { FST_QUOTA_CALENDAR } from '../../quota/errors.ts'
import { textArray } from '../arrays.ts'
import { openingOf, type PeriodRow } from '../calendar.ts'
import { openCounter } from '../charge/ensure-user.ts'
import { isLockedOut, PATIENCE } from '../charge/of-many.ts'
import { rollOver } from '../charge/open-period.ts'
import { isRefused } from '../connection/refused.ts'
import { type Database, dateOf, ms } from '../database.ts'

/** Whose counters are wanted, and the types that are wanted even where they are not active. */
export interface Wanted {
  userId: string
  charges: readonly { typeId: number }[]
}

/** In one order, so that two processes do not deadlock. */
const NEW_USERS = `
WITH ${PATIENCE}, want AS MATERIALIZED (
  SELECT w.id FROM patience, unnest($1::text::text[]) AS w (id)
)
INSERT INTO quota_users (id, created_at) SELECT id, now() FROM want ORDER BY id ON CONFLICT (id) DO NOTHING`

/** The types that a user has no counter of, and the counters whose period has ended. OFFSET 0: each is looked up by its key. */
const OUTDATED = `
WITH want AS MATERIALIZED (
  SELECT w.user_id, array_agg(w.quota_type_id) AS types FROM jsonb_to_recordset($1::text::jsonb) AS w (user_id text, quota_type_id int) GROUP BY 1
)
SELECT w.user_id, u.id IS NULL AS is_new, t.id AS quota_type_id, t.kind, t.period, u.time_zone, to_jsonb(u.period_anchor) #>> '{}' AS period_anchor,
       ${ms('l.period_start')} AS closing, ${ms('now()')} AS at
  FROM want w CROSS JOIN quota_types t
  LEFT JOIN LATERAL (SELECT q.id, q.time_zone, q.period_anchor FROM quota_users q WHERE q.id = w.user_id OFFSET 0) u ON true
  LEFT JOIN LATERAL (
    SELECT q.period_start, q.period_end FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = t.id OFFSET 0
  ) l ON true
 WHERE l.period_end <= now() OR (l.period_start IS NULL AND (t.is_active OR t.id = ANY (w.types)))`

const OPEN = openCounter({ ofOneUser: false })
const ROLL = rollOver({ ofOneUser: false })

interface OutdatedRow extends PeriodRow {
  user_id: string
  is_new: boolean
  quota_type_id: number
  /** When the period began that has ended; null: there is no counter. */
  closing: number | null
}

/**
 * Whether it was done, as far as nobody is in the way: whom somebody else has locked is skipped. False for all where the database refused or somebody
 * was waited for in vain: each must then be asked for by itself.
 */
export async function openMany(db: Pick<Database, 'query'>, wanted: readonly Wanted[]): Promise<boolean[]> {
  try {
    const items = wanted.flatMap(({ userId, charges }) =>
      charges.map(({ typeId }) => ({ user_id: userId, quota_type_id: typeId }))
    )
    const rows = await db.query<OutdatedRow>(OUTDATED, [JSON.stringify(items)])
    const openings = openingsOf(rows)
    const missing = openings.filter(({ closing }) => closing === null)
    const ended = openings.filter(({ closing }) => closing !== null)
    const users = new Set(rows.filter(row => row.is_new).map(row => row.user_id))
    if (users.size > 0) await db.query(NEW_USERS, [textArray([...users])])
    if (missing.length > 0) await db.query(OPEN, [JSON.stringify(missing)])
    if (ended.length > 0) await db.query(ROLL, [JSON.stringify(ended)])
    return wanted.map(() => true)
  } catch (error) {
    if (!isRefused(error) && !isLockedOut(error)) throw error
    return wanted.map(() => false)
  }
}

/** But not where a calendar is none: that is told when it is asked for by itself, and says nothing about the others. */
const openingsOf = (rows: readonly OutdatedRow[]) =>
  rows.flatMap(row => {
    const { user_id, quota_type_id } = row
    const closing = row.closing === null ? null : dateOf(row.closing)
    try {
      return [{ user_id, quota_type_id, closing, ...openingOf(row) }]
    } catch (error) {
      if (!(error instanceof FST_QUOTA_CALENDAR)) throw error
      return []
    }
  })
