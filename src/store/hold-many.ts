// Reserves for many requests in one statement, where there is room for all that a counter is asked for: a row locked and moved a counter, a
// row written a request. What is not so plain is left to others.
import type { CounterRow } from './admit.ts'
import { intArray, numbersOf, textArray, uuidArray } from './arrays.ts'
import type { Database } from './database.ts'
import { heldOf } from './held.ts'

/** One amount of one type, for one user. */
export interface Wish {
  userId: string
  id: string
  typeId: number
  amount: number
  leaseMs: number
}

/** The counter: where it is held, as it was after its own turn. */
export interface Held extends CounterRow {
  /** False: there is no room for it alone, and nothing is held that could be given back. */
  held: boolean
  /** The instant, by the database's clock. */
  at: number
}

/** Milliseconds; of an instant that has no fraction of one. */
const at = (expression: string) => `round(date_part('epoch', ${expression}) * 1000)`

/*
 * A charged request writes: the counter once, locked before (HOT, so no index entry); a reservation and its index entry, and deletes it; a log row and
 * three index entries; and its share of two flushes. Server's CPU for one that is reserved and charged (charge-many), in groups of 25 of 1 000 users,
 * PostgreSQL 15, one connection, µs:
 *   as it is                                                        42
 *   with a foreign key of quota_reservations, as before             46
 *   without looking for what is locked                              40
 *   a plan made for each call, as PostgreSQL chooses by itself      55
 *   a row of answers for each counter (Node takes 2 to 3 µs more)   39
 *   without the index on usage_logs (user_id, created_at)           40
 * In groups of 50 it is 34; all in one statement, with a running sum and the counter moved twice (move-many), took 1.7 times as much. A statement has
 * a price of its own, 170 to 220 where it is of one request alone, of which a durable UPDATE of one row is 150: that is why they are shared. To
 * update by `ctid`, and to write a counter's reservations from arrays of its own instead of by a join, made no difference. To hold and to charge in
 * one statement takes 7 µs less, and leaves a third more of the time idle: 0.85 to 1.0 times as many requests of one process, and 1.1 times with four
 * on two cores, whose groups are of five. To take turns, one statement at a time of either kind: 0.85 times. The log row with the deduction, and no
 * reservation ("presumed success"), would save a third more; but the log would have what was not charged yet.
 */

/**
 * `k` numbers the counters. One that somebody else has locked is skipped, so that one user who is held up holds up nobody else; looked up one by
 * one (LATERAL, and ANY instead of `=`, which no hash or merge join takes), also by a plan that was made while the tables were empty: such a one would
 * read all of quota_limits for each statement. The guard stands in the UPDATE's own WHERE.
 */
const HOLD_MANY = `
WITH want AS MATERIALIZED (
  SELECT * FROM unnest($1::text::text[], $2::text::int[], $3::text::bigint[]) WITH ORDINALITY AS w (user_id, quota_type_id, amount, k)
), free AS MATERIALIZED (
  SELECT w.k, w.amount, l.*
    FROM want w
   CROSS JOIN LATERAL (
     SELECT q.user_id, q.quota_type_id, q.limit_amount, q.used_amount, q.period_start, q.period_end
       FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = w.quota_type_id
        FOR NO KEY UPDATE SKIP LOCKED
   ) l
), counted AS (
  UPDATE quota_limits l SET used_amount = l.used_amount + f.amount, updated_at = now()
    FROM free f
   WHERE l.user_id = ANY (ARRAY[f.user_id]) AND l.quota_type_id = f.quota_type_id
     AND l.used_amount + f.amount <= CASE WHEN l.limit_amount < 0 THEN ${Number.MAX_SAFE_INTEGER} ELSE l.limit_amount END
     AND (l.period_end IS NULL OR l.period_end > now())
  RETURNING f.k, l.user_id, l.quota_type_id, l.period_start
), held AS (
  INSERT INTO quota_reservations (user_id, id, quota_type_id, amount, period_start, created_at, expires_at)
  SELECT c.user_id, w.id, c.quota_type_id, w.amount, c.period_start, greatest(date_trunc('milliseconds', now()), c.period_start),
         now() + w.lease_ms * interval '1 millisecond'
    FROM counted c JOIN unnest($4::text::uuid[], $5::text::bigint[], $6::text::int[], $7::text::bigint[]) AS w (id, amount, lease_ms, k) ON w.k = c.k
)
SELECT array_agg(k)::text AS k, array_agg((k IN (SELECT k FROM counted))::int)::text AS held, array_agg(limit_amount)::text AS limit_amount,
       array_agg(used_amount)::text AS used_amount, array_agg(${heldOf('f')})::text AS reserved_amount, array_agg(${at('period_start')})::text AS period_start,
       array_agg(${at('period_end')})::text AS period_end, ${at("date_trunc('milliseconds', now())")} AS at
  FROM free f`

/** Of all counters that were locked, as they were before: a row for each took Node twice as long to read. Null where there is none. */
interface FreeRow extends Record<keyof CounterRow | 'k' | 'held', string | null> {
  at: number
}

/** What is asked of one counter. */
interface Asked {
  userId: string
  typeId: number
  sum: number
  places: number[]
}

/**
 * What became of each; of a counter all are held or none. Undefined is for others: there is no such counter, somebody else has locked it, its
 * period has ended, or there is room for some of those who ask of it here.
 */
export async function holdMany(db: Pick<Database, 'query'>, wishes: readonly Wish[]): Promise<(Held | undefined)[]> {
  const counters = countersOf(wishes)
  const [row] = await db.query<FreeRow>(HOLD_MANY, valuesOf(wishes, counters))
  const answers: (Held | undefined)[] = wishes.map(() => undefined)
  if (row === undefined) return answers
  const held = numbersOf(row.held)
  const limits = numbersOf(row.limit_amount)
  const used = numbersOf(row.used_amount)
  const reserved = numbersOf(row.reserved_amount)
  const starts = numbersOf(row.period_start)
  const ends = numbersOf(row.period_end)
  numbersOf(row.k).forEach((k, i) => {
    const { places } = counters[(k as number) - 1] as Asked
    const before = {
      held: held[i] === 1,
      limit_amount: limits[i] as number,
      used_amount: used[i] as number,
      reserved_amount: reserved[i] as number,
      period_start: starts[i] as number,
      period_end: ends[i] as number | null,
      at: row.at
    }
    if (before.held) answerHeld(answers, wishes, places, before)
    else answerFull(answers, wishes, places, before)
  })
  return answers
}

function countersOf(wishes: readonly Wish[]): Asked[] {
  const known = new Map<string, Asked>()
  for (let place = 0; place < wishes.length; place++) {
    const { userId, typeId, amount } = wishes[place] as Wish
    const key = `${typeId} ${userId}`
    const asked = known.get(key)
    if (asked === undefined) known.set(key, { userId, typeId, sum: amount, places: [place] })
    else {
      // Where it is no whole number any more it does not fit, and each goes by itself.
      asked.sum += amount
      asked.places.push(place)
    }
  }
  return [...known.values()]
}

function valuesOf(wishes: readonly Wish[], counters: readonly Asked[]): string[] {
  const counterOf: number[] = []
  for (let k = 0; k < counters.length; k++) for (const place of (counters[k] as Asked).places) counterOf[place] = k + 1
  return [
    textArray(counters.map(({ userId }) => userId)),
    intArray(counters.map(({ typeId }) => typeId)),
    intArray(counters.map(({ sum }) => sum)),
    uuidArray(wishes.map(({ id }) => id)),
    intArray(wishes.map(({ amount }) => amount)),
    intArray(wishes.map(({ leaseMs }) => leaseMs)),
    intArray(counterOf)
  ]
}

/** In turn. */
function answerHeld(
  answers: (Held | undefined)[],
  wishes: readonly Wish[],
  places: readonly number[],
  before: Held
): void {
  const { held, limit_amount, period_start, period_end, at } = before
  let { used_amount, reserved_amount } = before
  for (const place of places) {
    const { amount } = wishes[place] as Wish
    used_amount += amount
    reserved_amount += amount
    answers[place] = { held, limit_amount, used_amount, reserved_amount, period_start, period_end, at }
  }
}

/** Who would not fit alone will not fit after others. Where something is held it may be dead, and what has ended begins anew. */
function answerFull(
  answers: (Held | undefined)[],
  wishes: readonly Wish[],
  places: readonly number[],
  before: Held
): void {
  const { limit_amount: limit, used_amount, reserved_amount, period_end, at } = before
  if (reserved_amount > 0 || (period_end !== null && period_end <= at)) return
  const room = (limit < 0 ? Number.MAX_SAFE_INTEGER : limit) - used_amount
  for (const place of places) if ((wishes[place] as Wish).amount > room) answers[place] = before
}
