// Which counters are as they were when they had no room: for many denials in one statement.
import type { Balance } from '../../quota/balance.ts'
import { instantArray, intArray, numbersOf, textArray } from '../arrays.ts'
import { heldOf } from '../charge/held.ts'
import { type Database, dateOf, ms } from '../database.ts'

/** A counter as it was, with nothing held of it. */
export interface FullCounter {
  userId: string
  typeId: number
  balance: Pick<Balance, 'limit' | 'used' | 'periodStart' | 'resetsAt'>
}

/**
 * Each counter is looked up by its key: joined to all of quota_limits by what it must be equal in, a thousand that are alike were compared with
 * each other.
 */
const STILL_FULL = `
SELECT array_agg(w.n)::text AS n, ${ms("date_trunc('milliseconds', now())")} AS at
  FROM unnest($1::text::text[], $2::text::int[], $3::text::bigint[], $4::text::bigint[], $5::text::timestamptz[], $6::text::timestamptz[])
       WITH ORDINALITY AS w (user_id, quota_type_id, limit_amount, used_amount, period_start, period_end, n)
 CROSS JOIN LATERAL (SELECT * FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = w.quota_type_id OFFSET 0) l
 WHERE l.limit_amount = w.limit_amount AND l.used_amount = w.used_amount AND l.period_start = w.period_start
   AND l.period_end IS NOT DISTINCT FROM w.period_end AND (l.period_end IS NULL OR l.period_end > now()) AND ${heldOf('l')} = 0`

export interface StillFull {
  /** The places of those that are as they were. */
  places: ReadonlySet<number>
  /** The instant, by the database's clock. */
  at: Date
}

export async function stillFull(db: Database, counters: readonly FullCounter[]): Promise<StillFull> {
  const [row] = await db.query<{ n: string | null; at: number }>(STILL_FULL, [
    textArray(counters.map(({ userId }) => userId)),
    intArray(counters.map(({ typeId }) => typeId)),
    intArray(counters.map(({ balance }) => balance.limit)),
    intArray(counters.map(({ balance }) => balance.used)),
    instantArray(counters.map(({ balance }) => balance.periodStart)),
    instantArray(counters.map(({ balance }) => balance.resetsAt))
  ])
  const { n, at } = row as { n: string | null; at: number }
  return { places: new Set(numbersOf(n).map(place => (place as number) - 1)), at: dateOf(at) }
}
