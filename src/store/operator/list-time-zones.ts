// The time zones that users' rows name, each with the number of users.
import type { Database } from '../database.ts'

export interface TimeZoneUse {
  timeZone: string
  users: number
  /** One of them. */
  userId: string
}

export async function listTimeZones(db: Database): Promise<TimeZoneUse[]> {
  const rows = await db.query<{ time_zone: string; users: number; user_id: string }>(
    'SELECT time_zone, count(*)::float8 AS users, min(id) AS user_id FROM quota_users GROUP BY time_zone ORDER BY time_zone'
  )
  return rows.map(row => ({ timeZone: row.time_zone, users: Number(row.users), userId: row.user_id }))
}
