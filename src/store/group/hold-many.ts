// Reserves for many requests in one statement: one row locked and moved per counter, one row written per request. Anything less simple is
// left to other statements.

import { intArray, numbersOf, textArray, uuidArray } from '../arrays.ts'
import type { CounterRow } from '../charge/admit.ts'
import { heldAndDeadOf } from '../charge/held.ts'
import type { Database } from '../database.ts'

/** One amount of one type, for one user. */
export interface Wish {
  userId: string
  id: string
  typeId: number
  amount: number
  leaseMs: number
}

/** The counter, as it was after this wish's own turn. */
export interface Held extends CounterRow {
  /** False: it does not fit, and nothing has expired that could be released. */
  held: boolean
  /** The instant, by the database's clock. */
  at: number
}

/** In milliseconds; for an instant that has no fraction of one. */
const at = (expression: string) => `round(date_part('epoch', ${expression}) * 1000)`

/*
 * A charged request writes the counter once, having locked it (HOT, so no index entry); a reservation and its index entry, and deletes the
 * reservation; a log row and three index entries; and its share of two flushes. Server CPU for one request that is reserved and charged
 * (charge-many), in groups of 25 of 1 000 users, PostgreSQL 15, one connection, µs:
 *   as it is                                                        42
 *   with a foreign key of quota_reservations, as before             46
 *   without looking for what is locked                              40
 *   a plan made for each call, as PostgreSQL chooses by itself      55
 *   a row of answers for each counter (Node takes 2 to 3 µs more)   39
 *   without the index on usage_logs (user_id, created_at)           40
 * In groups of 50 it is 34; one statement for everything, with a running sum and the counter moved twice (move-many), took 1.7 times as much. A
 * statement costs 170 to 220 when it carries a single request, of which a durable UPDATE of one row is 150: that is why requests share them.
 * Updating by `ctid`, and writing a counter's reservations from arrays of its own instead of by a join, made no difference. Holding and charging
 * in one statement takes 7 µs less, but leaves a third more of the time idle: 0.85 to 1.0 times as many requests from one process, 0.95 to 1.03 with
 * a second one behind it, and 1.1 times with four processes on two cores, whose groups are of five. Taking turns, one statement at a time of
 * either kind: 0.85 times. Writing the log row with the deduction, and no reservation ("presumed success"), would save a third more; but the log
 * would then contain what was not charged yet.
 */

/** Even an unlimited quota ends at JavaScript's largest safe integer. */
const CEILING = `CASE WHEN l.limit_amount < 0 THEN ${Number.MAX_SAFE_INTEGER} ELSE l.limit_amount END`

/** Where all wishes for a counter are of the same amount: as many as fit, first come, first served. `moved` is null where none fits. */
const ALIKE = {
  moved: `CASE WHEN l.used_amount + w.amount <= ${CEILING} THEN w.amount
              WHEN l.used_amount + w.each <= ${CEILING} THEN (${CEILING} - l.used_amount) / w.each * w.each END AS moved, NULL AS let_in`,
  turns: '',
  isHeld: 'i.upto <= c.moved',
  letIn: 'NULL'
}

/** Where they differ, `turn` goes through them and admits each that fits after those before it. This costs a statement 20 to 30 µs more. */
const MIXED = {
  moved: `CASE WHEN l.used_amount + w.amount <= ${CEILING} THEN w.amount ELSE t.moved END AS moved, t.let_in`,
  turns: `
    LEFT JOIN LATERAL (
      WITH RECURSIVE turn AS (
        SELECT min(i.n) - 1 AS n, 0::bigint AS moved, '{}'::bigint[] AS let_in FROM item i WHERE i.k = w.k
         UNION ALL
        SELECT i.n, t.moved + CASE WHEN fits THEN i.amount ELSE 0 END, CASE WHEN fits THEN t.let_in || i.n ELSE t.let_in END
          FROM turn t JOIN item i ON i.k = w.k AND i.n = t.n + 1
         CROSS JOIN LATERAL (SELECT l.used_amount + t.moved + i.amount <= ${CEILING} AS fits) f
      )
      SELECT CASE WHEN t.let_in <> '{}' THEN t.moved END AS moved, t.let_in
        FROM turn t WHERE l.used_amount + w.amount > ${CEILING} ORDER BY t.n DESC LIMIT 1
    ) t ON true`,
  isHeld: '(c.let_in IS NULL OR i.n = ANY (c.let_in))',
  letIn: '(SELECT array_agg(n)::text FROM counted, unnest(let_in) n)'
}

/**
 * `k` numbers the counters, and `n` the requests, counter by counter; `upto` is the running sum of what a counter's requests ask for. A
 * counter that somebody else has locked is skipped, so that one user who is held up holds up nobody else. Counters are looked up one by one
 * (LATERAL, and ANY instead of `=`, which no hash or merge join takes), even by a plan made while the tables were empty, which otherwise
 * would read all of quota_limits for each statement. The guard stands in the UPDATE's own WHERE, which is evaluated on the snapshot's row
 * first: a counter that was rolled over or given something back meanwhile may be locked and not counted.
 */
const holding = ({ moved, turns, isHeld, letIn }: typeof ALIKE) => `
WITH want AS MATERIALIZED (
  SELECT * FROM unnest($1::text::text[], $2::text::int[], $3::text::bigint[], $4::text::bigint[]) WITH ORDINALITY AS w (user_id, quota_type_id, amount, each, k)
), item AS (
  SELECT * FROM unnest($5::text::uuid[], $6::text::bigint[], $7::text::int[], $8::text::bigint[], $9::text::bigint[]) WITH ORDINALITY
    AS i (id, amount, lease_ms, k, upto, n)
), free AS MATERIALIZED (
  SELECT w.k, ${moved}, l.*
    FROM want w
   CROSS JOIN LATERAL (
      SELECT q.user_id, q.quota_type_id, q.limit_amount, q.used_amount, q.period_start, q.period_end
        FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = w.quota_type_id
         FOR NO KEY UPDATE SKIP LOCKED
    ) l${turns}
), counted AS (
  UPDATE quota_limits l SET used_amount = l.used_amount + f.moved, updated_at = now()
    FROM free f
   WHERE l.user_id = ANY (ARRAY[f.user_id]) AND l.quota_type_id = f.quota_type_id
     AND l.used_amount + f.moved <= ${CEILING} AND (l.period_end IS NULL OR l.period_end > now())
  RETURNING f.k, f.moved, f.let_in, l.user_id, l.quota_type_id, l.period_start
), held AS (
  INSERT INTO quota_reservations (user_id, id, quota_type_id, amount, period_start, created_at, expires_at)
  SELECT c.user_id, i.id, c.quota_type_id, i.amount, c.period_start, greatest(date_trunc('milliseconds', now()), c.period_start),
         now() + i.lease_ms * interval '1 millisecond'
    FROM counted c JOIN item i ON i.k = c.k AND ${isHeld}
)
SELECT array_agg(f.k)::text AS k, array_agg(f.moved)::text AS moved, array_agg((f.k IN (SELECT k FROM counted))::int)::text AS counted, ${letIn} AS let_in,
       array_agg(h.dead::int)::text AS dead, array_agg(f.limit_amount)::text AS limit_amount, array_agg(f.used_amount)::text AS used_amount,
       array_agg(h.amount)::text AS reserved_amount, array_agg(${at('f.period_start')})::text AS period_start,
       array_agg(${at('f.period_end')})::text AS period_end, ${at("date_trunc('milliseconds', now())")} AS at
  FROM free f CROSS JOIN LATERAL ${heldAndDeadOf('f')} h`

const HOLD_ALIKE = holding(ALIKE)
const HOLD_MIXED = holding(MIXED)

/** All counters that were locked, as they were before: a row for each took Node twice as long to read. Null where there is none. */
interface FreeRow extends Record<keyof CounterRow | 'k' | 'moved' | 'counted' | 'let_in' | 'dead', string | null> {
  at: number
}

/** What is asked of one counter. */
interface Asked {
  userId: string
  typeId: number
  sum: number
  /** What the first asks for. */
  each: number
  /** The first one's number, `n`. */
  first: number
  /** The places of its wishes among all, in order of arrival. */
  places: number[]
}

/**
 * What became of each wish; first come, first served. Undefined leaves it to others: there is no such counter, somebody else has locked it
 * or changed it just now, its period has ended, or it does not fit but something has expired that could be released.
 */
export async function holdMany(db: Pick<Database, 'query'>, wishes: readonly Wish[]): Promise<(Held | undefined)[]> {
  const { counters, areAlike } = countersOf(wishes)
  const [row] = await db.query<FreeRow>(areAlike ? HOLD_ALIKE : HOLD_MIXED, valuesOf(wishes, counters))
  const answers: (Held | undefined)[] = wishes.map(() => undefined)
  if (row === undefined) return answers
  const moved = numbersOf(row.moved)
  const counted = numbersOf(row.counted)
  const dead = numbersOf(row.dead)
  const limits = numbersOf(row.limit_amount)
  const used = numbersOf(row.used_amount)
  const reserved = numbersOf(row.reserved_amount)
  const starts = numbersOf(row.period_start)
  const ends = numbersOf(row.period_end)
  const letIn = new Set(numbersOf(row.let_in))
  const at = row.at
  numbersOf(row.k).forEach((k, i) => {
    const { sum, first, places } = counters[(k as number) - 1] as Asked
    const total = moved[i] ?? null
    // It fits the row that was locked, but not the one in the statement's snapshot.
    if (total !== null && counted[i] === 0) return
    const limit_amount = limits[i] as number
    const period_start = starts[i] as number
    const period_end = ends[i] ?? null
    const isStale = dead[i] === 1 || (period_end !== null && period_end <= at)
    let used_amount = used[i] as number
    let reserved_amount = reserved[i] as number
    let upto = 0
    for (let turn = 0; turn < places.length; turn++) {
      const place = places[turn] as number
      const { amount } = wishes[place] as Wish
      upto += amount
      const held = total !== null && (total === sum || (areAlike ? upto <= total : letIn.has(first + turn)))
      if (held) {
        used_amount += amount
        reserved_amount += amount
      }
      if (held || !isStale)
        answers[place] = { held, limit_amount, used_amount, reserved_amount, period_start, period_end, at }
    }
  })
  return answers
}

/** `areAlike`: all wishes for the same counter are of the same amount. */
function countersOf(wishes: readonly Wish[]): { counters: Asked[]; areAlike: boolean } {
  const known = new Map<string, Asked>()
  let areAlike = true
  for (let place = 0; place < wishes.length; place++) {
    const { userId, typeId, amount } = wishes[place] as Wish
    const key = `${typeId} ${userId}`
    const asked = known.get(key)
    if (asked === undefined) known.set(key, { userId, typeId, sum: amount, each: amount, first: 0, places: [place] })
    else {
      // A sum beyond the safe integers does not fit, and then each wish is looked at by itself.
      asked.sum += amount
      asked.places.push(place)
      if (amount !== asked.each) areAlike = false
    }
  }
  const counters = [...known.values()]
  let n = 1
  for (const asked of counters) {
    asked.first = n
    n += asked.places.length
  }
  return { counters, areAlike }
}

function valuesOf(wishes: readonly Wish[], counters: readonly Asked[]): string[] {
  const order: number[] = []
  const counterOf: number[] = []
  const upto: number[] = []
  for (let i = 0; i < counters.length; i++) {
    let sum = 0
    for (const place of (counters[i] as Asked).places) {
      sum += (wishes[place] as Wish).amount
      order.push(place)
      counterOf.push(i + 1)
      upto.push(sum)
    }
  }
  const items = order.map(place => wishes[place] as Wish)
  return [
    textArray(counters.map(({ userId }) => userId)),
    intArray(counters.map(({ typeId }) => typeId)),
    intArray(counters.map(({ sum }) => sum)),
    intArray(counters.map(({ each }) => each)),
    uuidArray(items.map(({ id }) => id)),
    intArray(items.map(({ amount }) => amount)),
    intArray(items.map(({ leaseMs }) => leaseMs)),
    intArray(counterOf),
    intArray(upto)
  ]
}
