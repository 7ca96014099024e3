// Holds for many requests in one statement, where all that ask of a counter ask for the same amount: one row moved per counter, one written per
// request. Anything less simple is left to other statements.

import { CEILING } from '../charge/admit.ts'
import type { HeldSince } from '../charge/held-since.ts'
import { PATIENCE } from '../charge/of-many.ts'
import type { Database } from '../database.ts'
import { holdMany } from './hold-many.ts'
import { type HoldStatement, heldWhere, ITEM, tell, WANT } from './hold-statement.ts'
import { Patience } from './patience.ts'
import { type Told, type Wish, Wishes } from './wishes.ts'

/** As many as fit, first come, first served. */
const MOVED = `CASE WHEN l.used_amount + w.amount <= ${CEILING} THEN w.amount ELSE (${CEILING} - l.used_amount) / w.least * w.least END`

/*
 * A charged request writes the counter once (HOT, so no index entry); a reservation and its index entry, and deletes the reservation; a log row
 * and three index entries; and its share of two flushes. Server CPU for one request that is reserved and charged (charge-many), in groups of 25
 * of 1 000 users, PostgreSQL 15, one connection, µs:
 *   as it is                                                        40
 *   looking first for what is locked, as hold-many does             43
 *   leaving those without room to another statement                 39
 *   with a foreign key of quota_reservations, as before             44
 *   a plan made for each call, as PostgreSQL chooses by itself      53
 *   a row of answers for each counter (Node takes 2 to 3 µs more)   37
 *   without telling what is held                                    38
 *   without the index on usage_logs (user_id, created_at)           36
 * One statement for everything, with a running sum and the counter moved twice (move-one-user), took 1.7 times as much as hold-many. A statement
 * costs 170 to 220 when it carries a single request, of which a durable UPDATE of one row is 150: that is why requests share them. Waiting for locked
 * counters instead of looking for them first gives 1.04 times as many requests of 1 000 users, and of a hot user, where four processes meet, 1.15.
 * Updating by `ctid`, and writing a counter's reservations from arrays of its own instead of by a join, made no difference. One reservation for all
 * requests of a counter, with their ids in an array, which charging cuts or deletes, takes 0.93 times as much for a hot user's 17, and as much as now
 * where they are charged in two parts; one for all of a statement of 15 users, 0.94 times. Holding and charging in one statement takes 7 µs less, but
 * leaves a third more of the time idle: 0.85 to 1.0 times as many requests from one process, 0.95 to 1.03 with a second one behind it, and 1.1 times
 * with four processes on two cores, whose groups were of five. Writing the log row with the deduction, and no reservation ("presumed success"), would
 * save a third more; but the log would then contain what was not charged yet. With (user_id, created_at, id) as the log's primary key, a unique index
 * on (id, user_id) would be enough beside it, and 3 µs less; but `drizzle-kit push` makes a key anew, each time, that is not in the order of the
 * table's columns.
 */

/**
 * Counters are locked by user and type. All are looked up one by one (ANY instead of `=`, which no hash or merge join takes), even by a plan made
 * while the tables were empty, which otherwise would read all of quota_limits for each statement. The guard stands in the UPDATE's own WHERE, and
 * after a wait PostgreSQL evaluates it, and `MOVED`, again on the newest row; what it was moved by can then only be told by the row itself. Who
 * had no room already as the statement began is told so, by the snapshot's row.
 */
const holdAlike = (isBounded: boolean): HoldStatement => ({
  isBounded,
  text: `
WITH ${PATIENCE}, want AS MATERIALIZED (
  SELECT w.* FROM patience, ${WANT}
), ${ITEM}, counted AS (
  UPDATE quota_limits l SET used_amount = l.used_amount + ${MOVED}, last_held_amount = ${MOVED}, updated_at = now()
    FROM want w
   WHERE l.user_id = ANY (ARRAY[w.user_id]) AND l.quota_type_id = w.quota_type_id
     AND l.used_amount + w.least <= ${CEILING} AND (l.period_end IS NULL OR l.period_end > now())
  RETURNING w.k, l.last_held_amount AS moved, l.user_id, l.quota_type_id, l.limit_amount,
            l.used_amount - l.last_held_amount AS used_amount, l.period_start, l.period_end
), ${heldWhere('i.upto <= c.moved')}
${tell(
  `(
    SELECT k, moved, user_id, quota_type_id, limit_amount, used_amount, period_start, period_end FROM counted
     UNION ALL
    SELECT w.k, NULL, l.user_id, l.quota_type_id, l.limit_amount, l.used_amount, l.period_start, l.period_end
      FROM want w CROSS JOIN LATERAL (SELECT * FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = w.quota_type_id OFFSET 0) l
     WHERE w.k NOT IN (SELECT k FROM counted) AND l.used_amount + w.least > ${CEILING}
  ) f`,
  isBounded
)}`
})

const HOLD_ALIKE = holdAlike(false)
const HOLD_ALIKE_BOUNDED = holdAlike(true)
/** A statement that takes the server as long may visit many reservations that are no more: then they are passed over. Usually it takes under one. */
const LABOURED_MS = 8
/** For how long; a statement takes 1.05 times as much, where there are none. */
const BOUNDED_MS = 30_000

/** Holds the quicker way while nothing stands in it. */
export class Holding {
  readonly #heldSince: HeldSince
  readonly #patience = new Patience()
  #boundedUntil = Number.NEGATIVE_INFINITY

  constructor(heldSince: HeldSince) {
    this.#heldSince = heldSince
  }

  /** What became of each wish, as in `holdMany`. */
  readonly hold = async (db: Pick<Database, 'query'>, all: readonly Wish[]): Promise<Told[]> => {
    const wishes = new Wishes(all, this.#heldSince)
    const passing = () => holdMany(db, wishes)
    if (!wishes.areAlike) return await passing()
    return await this.#patience.run(() => this.#holdAlike(db, wishes), passing)
  }

  async #holdAlike(db: Pick<Database, 'query'>, wishes: Wishes): Promise<Told[]> {
    const told = await wishes.ask(db, performance.now() < this.#boundedUntil ? HOLD_ALIKE_BOUNDED : HOLD_ALIKE)
    if (wishes.tookMs >= LABOURED_MS) this.#boundedUntil = performance.now() + BOUNDED_MS
    return told
  }
}
