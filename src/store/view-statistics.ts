// Adds up what was charged and denied of one quota type: in all, by hour or day, and by user.
import { type Series, seriesOf } from '../quota/series.ts'
import { type Database, dateOf, ms } from './database.ts'
import { gapsOf, rolledWithin } from './rollup/rolled.ts'

/**
 * $1 type, $2 the first instants of the pieces as milliseconds, $3 and $4 the span, $5 how many users, $6 the time zone. One statement, so
 * that the total is the sum of its pieces. What is added up by day is not there by hour and user: the users of an hour are counted there.
 */
const statistics = (rolledPieces: string) => `
WITH piece AS MATERIALIZED (
  SELECT ARRAY(SELECT jsonb_array_elements_text($2::text::jsonb)::float8) AS starts
), ${rolledWithin('$6', '$3::timestamptz', '$4::timestamptz')}, gap AS MATERIALIZED (${gapsOf('$3::timestamptz', '$4::timestamptz')}
), fresh AS MATERIALIZED (
  SELECT width_bucket(${ms('u.created_at')}, piece.starts) AS n, u.user_id, sum(u.amount) AS usage, count(*) AS calls
    FROM piece CROSS JOIN gap JOIN usage_logs u ON u.created_at >= gap.start AND u.created_at < gap.until
   WHERE u.quota_type_id = $1::int
   GROUP BY 1, 2
), days AS MATERIALIZED (
  SELECT r.day_start, d.user_id, d.usage, d.calls
    FROM rolled r JOIN quota_usage_days d ON d.time_zone = $6 AND d.quota_type_id = $1::int AND d.day_start = r.day_start
), used AS MATERIALIZED (${rolledPieces}
), denied AS MATERIALIZED (
  SELECT width_bucket(${ms('d.hour')}, piece.starts) AS n, sum(d.denials) AS denials
    FROM quota_denials d CROSS JOIN piece
   WHERE d.quota_type_id = $1::int AND d.hour >= $3::timestamptz AND d.hour < $4::timestamptz
   GROUP BY 1
), by_user AS MATERIALIZED (
  SELECT user_id, sum(usage) AS usage, sum(calls) AS calls
    FROM (SELECT user_id, usage, calls FROM days UNION ALL SELECT user_id, usage, calls FROM fresh) u GROUP BY user_id
)
SELECT (SELECT count(*) FROM by_user)::float8 AS unique_users,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(n, usage, calls, users)), '[]') FROM used)::text AS pieces,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(n, denials)), '[]') FROM denied)::text AS denials,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(user_id, usage, calls) ORDER BY usage DESC, user_id), '[]')
          FROM (SELECT * FROM by_user ORDER BY usage DESC, user_id LIMIT $5::int) top)::text AS top_users`

/** A user of today stands in what is added up and in what is fresh, and is one. */
const BY_DAY = statistics(`
  SELECT n, sum(usage) AS usage, sum(calls) AS calls, count(DISTINCT user_id) AS users
    FROM (SELECT width_bucket(${ms('day_start')}, piece.starts) AS n, user_id, usage, calls FROM days CROSS JOIN piece
          UNION ALL SELECT n, user_id, usage, calls FROM fresh) u
   GROUP BY n`)

/** An hour is added up whole or not at all. */
const BY_HOUR = statistics(`
  SELECT width_bucket(${ms('h.hour_start')}, piece.starts) AS n, h.usage, h.calls, h.users
    FROM piece CROSS JOIN rolled r JOIN quota_usage_hours h ON h.time_zone = $6 AND h.quota_type_id = $1::int
                                                        AND h.hour_start >= r.day_start AND h.hour_start < r.rolled_until
  UNION ALL SELECT n, sum(usage), sum(calls), count(*) FROM fresh GROUP BY n`)

/** Where nothing is added up yet it reads the log. */
const DEADLINE_MS = 60_000

export interface StatisticsOrder {
  typeId: number
  days: number
  interval: 'hour' | 'day'
  /** Whose days and hours. */
  timeZone: string
  topUsers: number
  /** The instant; default: the database's clock. */
  at?: Date | undefined
}

export interface Piece {
  start: Date
  usage: number
  calls: number
  users: number
  denials: number
}

export interface Statistics {
  from: Date
  until: Date
  uniqueUsers: number
  /** Every hour or day, also where nothing happened. */
  series: Piece[]
  topUsers: { userId: string; usage: number; calls: number }[]
}

export async function viewStatistics(db: Database, order: StatisticsOrder): Promise<Statistics> {
  const series = seriesOf(order.interval, order.days, order.timeZone, order.at ?? (await clockOf(db)))
  const from = series.starts[0] as Date
  const values = [
    order.typeId,
    JSON.stringify(series.starts.map(start => start.getTime())),
    from.toISOString(),
    series.end.toISOString(),
    order.topUsers,
    order.timeZone
  ]
  const [row] = await db.query<Record<string, string>>(order.interval === 'day' ? BY_DAY : BY_HOUR, values, DEADLINE_MS)
  const { unique_users, pieces, denials, top_users } = row as Record<string, string>
  return {
    from,
    until: series.end,
    uniqueUsers: Number(unique_users),
    series: piecesOf(series, JSON.parse(pieces as string), JSON.parse(denials as string)),
    topUsers: (JSON.parse(top_users as string) as [string, number, number][]).map(([userId, usage, calls]) => ({
      userId,
      usage,
      calls
    }))
  }
}

const clockOf = async (db: Database): Promise<Date> => {
  const [row] = await db.query<{ at: number }>(`SELECT ${ms('now()')} AS at`)
  return dateOf((row as { at: number }).at)
}

/** The database counts pieces from 1, and leaves out those where nothing was. */
function piecesOf({ starts }: Series, used: readonly number[][], denied: readonly number[][]): Piece[] {
  const pieces = starts.map(start => ({ start, usage: 0, calls: 0, users: 0, denials: 0 }))
  const pieceOf = (n: number | undefined) => pieces[(n as number) - 1] as Piece
  for (const [n, usage = 0, calls = 0, users = 0] of used) Object.assign(pieceOf(n), { usage, calls, users })
  for (const [n, denials = 0] of denied) Object.assign(pieceOf(n), { denials })
  return pieces
}
