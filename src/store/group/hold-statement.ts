// What the statements that hold for many have in common: what they take, write and tell.
import type { CounterRow } from '../charge/counter-balance.ts'
import { expiryOf, heldAndDeadOf, heldSinceOf } from '../charge/held.ts'
import { isHeldLong } from '../charge/held-since.ts'
import { wholeMs } from '../database.ts'

/** SQL of a table: the counters, numbered `k`; the sum of what is asked of each, and the least that somebody asks for. */
export const WANT = `unnest($1::text::text[], $2::text::int[], $3::text::bigint[], $4::text::bigint[]) WITH ORDINALITY
    AS w (user_id, quota_type_id, amount, least, k)`

/** SQL of a CTE: the requests, numbered `n`, counter by counter; `upto` is the running sum of what those of a counter ask for. */
export const ITEM = `item AS (
  SELECT * FROM unnest($5::text::uuid[], $6::text::bigint[], $7::text::int[], $8::text::bigint[], $9::text::bigint[]) WITH ORDINALITY
    AS i (id, amount, lease_ms, k, upto, n)
)`

/** SQL of a CTE: writes the reservations of `counted (k, user_id, quota_type_id, period_start)`. */
export const heldWhere = (condition: string): string => `held AS (
  INSERT INTO quota_reservations (user_id, id, quota_type_id, amount, period_start, created_at, expires_at)
  SELECT c.user_id, i.id, c.quota_type_id, i.amount, c.period_start, greatest(date_trunc('milliseconds', now()), c.period_start),
         ${expiryOf('c.period_start', 'i.lease_ms')}
    FROM counted c JOIN item i ON i.k = c.k AND ${condition}
)`

/** A statement that holds. `isBounded`: it sums up what is held since the ids of `HeldSince`, instead of all. */
export interface HoldStatement {
  text: string
  isBounded: boolean
}

/** SQL of joins: `h`, what was held of each counter `f`. */
const heldOfEach = (isBounded: boolean): string =>
  isBounded
    ? `JOIN unnest($10::text::uuid[]) WITH ORDINALITY AS s (since, k) ON s.k = f.k CROSS JOIN LATERAL ${heldSinceOf('f', 's.since')} h`
    : `CROSS JOIN LATERAL ${heldAndDeadOf('f')} h`

const HELD_LONG = `jsonb_object_agg(f.k, ${wholeMs('h.oldest')}) FILTER (WHERE ${isHeldLong('h.oldest')})::text AS held_long`
const TOOK = `${wholeMs('clock_timestamp() - now()')} AS took`

/**
 * SQL: what is told of all counters together: a row for each took Node twice as long to read. `counters` gives `f`, a counter as it was before, and what
 * it was moved by.
 */
export const tell = (counters: string, isBounded: boolean, more = ''): string => `
SELECT array_agg(f.k)::text AS k, array_agg(f.moved)::text AS moved, array_agg(h.dead::int)::text AS dead,
       array_agg(f.limit_amount)::text AS limit_amount, array_agg(f.used_amount)::text AS used_amount,
       array_agg(h.amount)::text AS reserved_amount, array_agg(${wholeMs('f.period_start')})::text AS period_start,
       array_agg(${wholeMs('f.period_end')})::text AS period_end, ${wholeMs("date_trunc('milliseconds', now())")} AS at, ${isBounded ? HELD_LONG : TOOK}${more}
  FROM ${counters} ${heldOfEach(isBounded)}`

/** SQL of a column: the numbers of the counters that do not exist. */
export const MISSING = `(SELECT array_agg(w.k)::text FROM want w WHERE NOT EXISTS (
          SELECT 1 FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = w.quota_type_id OFFSET 0)) AS missing`

/** Each null where there is no counter; `moved` has a null for one that was not moved, and `dead` whether something has expired that could be released. */
export interface ToldRow extends Record<keyof CounterRow | 'k' | 'moved' | 'dead', string | null> {
  at: number
  /** Of a statement that is bounded: by `k`, when the oldest was admitted of what has been held for long. */
  held_long?: string | null
  /** Of one that is not: how long it took the server, in milliseconds. */
  took?: number
  /** Whether each was moved; undefined: all were. */
  counted?: string | null
  /** The numbers of those that were let in where not all were. Undefined: the first come, as many as it was moved by. */
  let_in?: string | null
  /** The numbers of those that do not exist. Undefined: all that are not told of. */
  missing?: string | null
}
