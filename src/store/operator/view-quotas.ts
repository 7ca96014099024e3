// Reads a user's balances as they are now, and writes nothing: an ended period shows as the new one, expired reservations as released.
import { type NamedBalance, remainingOf } from '../../quota/balance.ts'
import { type PeriodUnit, periodContaining } from '../../quota/period.ts'
import { periodOf, type QuotaKind } from '../../quota/quota-type.ts'
import { type CalendarRow, calendarOf } from '../calendar.ts'
import { type Database, dateOf, dateOrNull, instantOf, ms } from '../database.ts'

const VIEW = `
SELECT t.type_key, t.name, t.unit, t.kind, t.period, u.time_zone, to_jsonb(u.period_anchor) #>> '{}' AS period_anchor,
       u.id IS NOT NULL AS known, l.user_id IS NOT NULL AS counted,
       coalesce(l.limit_amount, t.default_limit) AS limit_amount, coalesce(l.used_amount, 0) AS used_amount,
       held.amount AS reserved_amount, held.dead AS dead_amount, ${ms('l.period_start')} AS period_start, ${ms('l.period_end')} AS period_end,
       ${ms('coalesce($2::timestamptz, now())')} AS at
  FROM quota_types t
  LEFT JOIN quota_users u ON u.id = $1
  LEFT JOIN quota_limits l ON l.user_id = u.id AND l.quota_type_id = t.id
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(r.amount), 0) AS amount,
          coalesce(sum(r.amount) FILTER (WHERE r.expires_at <= coalesce($2::timestamptz, now())), 0) AS dead
     FROM quota_reservations r WHERE r.user_id = l.user_id AND r.quota_type_id = t.id AND r.period_start = l.period_start
 ) held
 WHERE (t.is_active OR l.user_id IS NOT NULL) AND ($3::text IS NULL OR t.type_key = $3)
 ORDER BY t.type_key`

export interface ViewRow extends CalendarRow {
  type_key: string
  name: string
  unit: string
  kind: QuotaKind
  period: PeriodUnit
  known: boolean
  counted: boolean
  limit_amount: number
  used_amount: number
  reserved_amount: number
  period_start: number | null
  period_end: number | null
  dead_amount: number
  at: number
}

export interface UserQuotas {
  /** False: there is no row; what is shown is what the user would get. */
  known: boolean
  quotas: NamedBalance[]
}

/** Every quota of a user, or the one with this key. */
export async function viewQuotas(db: Database, userId: string, key?: string, at?: Date): Promise<UserQuotas> {
  const rows = await db.query<ViewRow>(VIEW, [userId, instantOf(at), key ?? null])
  return { known: rows.some(row => row.known), quotas: rows.map(viewOf) }
}

/** The balance that a row describes at its `at`. */
export function viewOf(row: ViewRow): NamedBalance {
  const limit = Number(row.limit_amount)
  const { type_key: type, name, unit, kind } = row
  const runs = row.counted && (row.period_end === null || Number(row.period_end) > Number(row.at))
  if (!runs) {
    const { start, end } = periodContaining(periodOf(row), calendarOf(row), dateOf(row.at))
    // As it will be opened: never inside the one that has ended.
    const periodStart = dateOf(Math.max(start.getTime(), Number(row.period_end)))
    return { type, name, unit, kind, limit, used: 0, reserved: 0, remaining: limit, periodStart, resetsAt: end }
  }
  const used = Number(row.used_amount) - Number(row.reserved_amount)
  const reserved = Number(row.reserved_amount) - Number(row.dead_amount)
  return {
    type,
    name,
    unit,
    kind,
    limit,
    used,
    reserved,
    remaining: remainingOf(limit, used, reserved),
    periodStart: dateOf(row.period_start as number),
    resetsAt: dateOrNull(row.period_end)
  }
}
