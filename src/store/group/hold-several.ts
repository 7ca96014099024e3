// Holds for many requests with several charges each, in one statement, where all of a user's fit. Anything less simple is left to other statements.

import { CEILING } from '../charge/admit.ts'
import type { HeldSince } from '../charge/held-since.ts'
import { PATIENCE } from '../charge/of-many.ts'
import type { Database } from '../database.ts'
import { byRequest } from './by-request.ts'
import { type HoldStatement, heldWhere, ITEM, MISSING, tell, WANT } from './hold-statement.ts'
import { Patience } from './patience.ts'
import type { ReservingSeveral } from './waiting.ts'
import { type Told, Wishes } from './wishes.ts'

/**
 * All that is asked for a user is held, or nothing: then it is not decided here which request has to go without. With `skip`, a counter that somebody
 * else has locked is skipped, and its user left out; without, it is waited for, in one order, and for `patience`. Each is locked before any is
 * changed, so the sums are judged by the newest rows, and the UPDATE needs no guard: there it would also be evaluated on the snapshot's row, and
 * drop from "all" a counter that was full until just now. Requests of two charges a second, with 50 connections: 7 000 of 5 000 users, and 11 000
 * of one, instead of 1 100 and 550 that go by themselves. Where nobody is waited for, one user's settling and holding pass each other by, and all
 * go by themselves after all.
 */
const several = ({ patience = '', skip = '' }): string => `
WITH ${patience && `${patience}, `}want AS MATERIALIZED (
  SELECT w.* FROM ${patience && 'patience, '}${WANT}
), ${ITEM}, free AS MATERIALIZED (
  SELECT w.k, w.amount, l.* FROM want w
   CROSS JOIN LATERAL (
      SELECT q.user_id, q.quota_type_id, q.limit_amount, q.used_amount, q.period_start, q.period_end
        FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = w.quota_type_id
         FOR NO KEY UPDATE ${skip}
    ) l
), fit AS MATERIALIZED (
  SELECT w.user_id FROM want w LEFT JOIN free l ON l.k = w.k GROUP BY w.user_id
  HAVING bool_and(l.k IS NOT NULL AND (l.amount = 0 OR l.used_amount + l.amount <= ${CEILING}) AND (l.period_end IS NULL OR l.period_end > now()))
), counted AS (
  UPDATE quota_limits l SET used_amount = l.used_amount + f.amount, updated_at = now()
    FROM free f
   WHERE f.user_id IN (SELECT user_id FROM fit) AND l.user_id = ANY (ARRAY[f.user_id]) AND l.quota_type_id = f.quota_type_id
  RETURNING f.k, l.user_id, l.quota_type_id, l.period_start
), ${heldWhere('true')}
${tell(`(SELECT *, CASE WHEN user_id IN (SELECT user_id FROM fit) THEN amount END AS moved FROM free) f`, true, `, ${MISSING}`)}`

const WAITING: HoldStatement = { text: several({ patience: PATIENCE }), isBounded: true }
const PASSING: HoldStatement = { text: several({ skip: 'SKIP LOCKED' }), isBounded: true }
const INSISTING: HoldStatement = { text: several({}), isBounded: true }

/** What became of each charge of each request. A request is held where all its charges are; else none is. */
export class HoldingSeveral {
  readonly #heldSince: HeldSince
  readonly #patience = new Patience()

  constructor(heldSince: HeldSince) {
    this.#heldSince = heldSince
  }

  readonly hold = (db: Pick<Database, 'query'>, requests: readonly ReservingSeveral[]): Promise<Told[][]> =>
    this.#patience.run(
      () => this.#ask(db, requests, WAITING),
      () => this.#ask(db, requests, PASSING)
    )

  /** For requests of one user: waits for the counters as long as the session does. */
  readonly insist = (db: Pick<Database, 'query'>, requests: readonly ReservingSeveral[]): Promise<Told[][]> =>
    this.#ask(db, requests, INSISTING)

  async #ask(
    db: Pick<Database, 'query'>,
    requests: readonly ReservingSeveral[],
    statement: HoldStatement
  ): Promise<Told[][]> {
    const wishes = requests.flatMap(({ userId, charges, leaseMs }) =>
      charges.map(({ id, typeId, amount }) => ({ userId, id, typeId, amount, leaseMs }))
    )
    const told = await new Wishes(wishes, this.#heldSince).ask(db, statement)
    return byRequest(
      told,
      requests.map(({ charges }) => charges.length)
    )
  }
}
