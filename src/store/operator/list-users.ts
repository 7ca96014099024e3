// Reads who is near a limit and who uses most: every user once, with the quota that ranks them, a page at a time.
import type { NamedBalance } from '../../quota/balance.ts'
import { ofUser } from '../calendar.ts'
import { heldOf } from '../charge/held.ts'
import { type Database, ms } from '../database.ts'
import { where } from '../where.ts'
import { type ViewRow, viewOf } from './view-quotas.ts'

/** The last row of the previous page. */
export interface RankPosition {
  /** The value it was ranked by, as the database wrote it. */
  rank: string
  userId: string
}

export interface UserRank extends RankPosition {
  email: string | null
  timeZone: string
  /** A day: `2026-01-31`. */
  periodAnchor: string | null
  quota: NamedBalance
  /** Null: unlimited. */
  usagePercent: number | null
}

export type UserSort = 'usage_percent' | 'used' | 'user_id'

export interface UserFilter {
  userId?: string | undefined
  /** Of this type only; none: of the active ones. */
  typeId?: number | undefined
  minUsagePercent?: number | undefined
}

interface RankRow extends ViewRow {
  user_id: string
  email: string | null
  percent: string | null
  rank: string
}

/** In an ended period nothing is used any more. What a dead process held counts until it is released. */
const GONE = 'CASE WHEN l.period_end <= now() THEN 0 ELSE l.used_amount END'
const PERCENT = `CASE WHEN l.limit_amount < 0 THEN NULL WHEN l.limit_amount = 0 THEN 100 ELSE round(${GONE} * 100.0 / l.limit_amount, 2) END`
/** An unlimited quota comes after those that have a limit. */
const RANK: Record<UserSort, string> = {
  usage_percent: `coalesce(${PERCENT}, -1)`,
  used: `(${GONE})::numeric`,
  user_id: `coalesce(${PERCENT}, -1)`
}

/** At most `limit` users after a position, or after `offset` of them. Ranking by usage reads all counters; by id, only those of the page. */
export async function listUsers(
  db: Database,
  filter: UserFilter,
  sort: UserSort,
  page: { limit: number; offset: number; after: RankPosition | undefined }
): Promise<UserRank[]> {
  const { after } = page
  const isById = sort === 'user_id'
  const counters = where([
    filter.typeId === undefined ? ['t.is_active'] : ['l.quota_type_id = ?::int', filter.typeId],
    [`${PERCENT} >= ?::numeric`, filter.minUsagePercent === undefined ? undefined : String(filter.minUsagePercent)],
    ['l.user_id = ?::text', filter.userId],
    ['l.user_id > ?::text', isById ? after?.userId : undefined]
  ])
  const ranked = where(
    isById || after === undefined
      ? []
      : [['(rank < ?::numeric OR (rank = ?::numeric AND user_id > ?::text))', after.rank, after.rank, after.userId]],
    counters.values
  )
  const from = `FROM quota_limits l JOIN quota_types t ON t.id = l.quota_type_id ${counters.text}`
  const users = isById
    ? `SELECT DISTINCT l.user_id ${from} ORDER BY l.user_id`
    : `SELECT user_id FROM (SELECT l.user_id, max(${RANK[sort]}) AS rank ${from} GROUP BY l.user_id) u ${ranked.text} ORDER BY rank DESC, user_id`
  const rows = await db.query<RankRow>(
    `
SELECT r.user_id, u.email, u.time_zone, to_jsonb(u.period_anchor) #>> '{}' AS period_anchor, t.type_key, t.name, t.unit, t.kind, t.period,
       true AS known, true AS counted, r.limit_amount, r.used_amount, ${heldOf('r')} AS reserved_amount, 0 AS dead_amount,
       ${ms('r.period_start')} AS period_start, ${ms('r.period_end')} AS period_end, ${ms('now()')} AS at,
       r.percent::text AS percent, r.rank::text AS rank
  FROM (${users} LIMIT ${page.limit} OFFSET ${page.offset}) p
 CROSS JOIN LATERAL (
   SELECT l.*, ${PERCENT} AS percent, ${RANK[sort]} AS rank ${from} AND l.user_id = p.user_id ORDER BY rank DESC, t.type_key LIMIT 1
 ) r
  JOIN quota_users u ON u.id = r.user_id
  JOIN quota_types t ON t.id = r.quota_type_id
 ORDER BY ${isById ? '' : 'r.rank DESC, '}r.user_id`,
    ranked.values
  )
  return rows.map(row => ({
    userId: row.user_id,
    rank: row.rank,
    email: row.email,
    timeZone: row.time_zone as string,
    periodAnchor: row.period_anchor,
    quota: ofUser(row.user_id, () => viewOf(row)),
    usagePercent: row.percent === null ? null : Number(row.percent)
  }))
}
