// Charges what it really cost, or gives back, for many requests in one statement. Whatever gets no answer here is asked for by itself.
import { intArray, intOrNullArray, numbersOf, textArray, uuidArray } from '../arrays.ts'
import { heldSinceOf } from '../charge/held.ts'
import { counterKey, type HeldSince, isHeldLong } from '../charge/held-since.ts'
import { PATIENCE } from '../charge/of-many.ts'
import { type Database, wholeMs } from '../database.ts'
import { isLate } from '../rollup/mark-usage.ts'
import { byRequest } from './by-request.ts'
import { metadataText } from './charge-many.ts'
import type { Moved, Settlement } from './move-one-user.ts'
import { Patience } from './patience.ts'
import { byUserAndType } from './wishes.ts'

/**
 * The counters are numbered `k`, the settlements `n`; one without an amount gives back. Counters are locked first and in one order, as everywhere; one
 * that somebody else has locked is skipped (or, with `waits`, waited for only for a moment), so that one user who is held up holds up nobody else. With
 * `several`, a request is settled in all that it holds, or in nothing. A reservation is settled if it is there and its period runs; one that is gone,
 * belongs to a closed period, or was admitted so long ago that its log row leaves a mark, is left out.
 *
 * Sent on the connection of those who hold, it is 1.25 times as many requests with 50 connections as on others, where each statement met counters that
 * the other kind had locked, and left them out; 1.5 of a hot user, and 1.7 with 200 connections. What it did in one statement with what reserves, as
 * `move-one-user.ts` does, took as long.
 *
 * The counters are set from what was read under the lock, not incremented: an UPDATE sees the snapshot's row first. LATERAL, and ANY instead of `=`,
 * have each looked up by its key, as in `hold-many.ts`.
 */
const settleMany = ({ several = false, waits = false }) => `
WITH ${waits ? `${PATIENCE}, ` : ''}counter AS MATERIALIZED (
  SELECT w.k, w.since, l.*
    FROM ${waits ? 'patience, ' : ''}unnest($1::text::text[], $2::text::int[], $3::text::uuid[]) WITH ORDINALITY AS w (user_id, quota_type_id, since, k)
   CROSS JOIN LATERAL (
      SELECT q.user_id, q.quota_type_id, q.limit_amount, q.used_amount, q.period_start, q.period_end
        FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = w.quota_type_id
         FOR UPDATE ${waits ? '' : 'SKIP LOCKED'}
    ) l
), item AS MATERIALIZED (
  SELECT i.*, c.user_id, c.period_start
    FROM unnest($4::text::bigint[], $5::text::uuid[], $6::text::bigint[], $7::text::text[], $8::text::text[]${several ? ', $9::text::int[]' : ''}) WITH ORDINALITY
      AS i (k, id, amount, endpoint, metadata${several ? ', q' : ''}, n)
    LEFT JOIN counter c ON c.k = i.k
), ${several ? `${WHOLE}, ` : ''}settled AS MATERIALIZED (
  DELETE FROM quota_reservations r
   USING item i
   WHERE r.user_id = ANY (ARRAY[i.user_id]) AND r.id = i.id AND r.period_start = i.period_start
     AND NOT ${isLate('r.created_at')} ${several ? 'AND i.q IN (SELECT q FROM whole)' : ''}
  RETURNING i.n, i.k, i.amount, r.amount AS held, r.user_id, r.id, r.quota_type_id, r.created_at, i.endpoint, i.metadata
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT user_id, id, quota_type_id, amount, endpoint, coalesce(metadata::jsonb, '{}'), created_at FROM settled WHERE amount IS NOT NULL
), moved AS MATERIALIZED (
  SELECT k, sum(coalesce(amount, 0) - held)::bigint AS used, sum(held)::bigint AS gone FROM settled GROUP BY k
), counted AS (
  UPDATE quota_limits l SET used_amount = c.used_amount + m.used, updated_at = now()
    FROM moved m JOIN counter c ON c.k = m.k
   WHERE l.user_id = ANY (ARRAY[c.user_id]) AND l.quota_type_id = c.quota_type_id
)
SELECT array_agg(c.k)::text AS k, (SELECT array_agg(n)::text FROM settled) AS done, array_agg(c.limit_amount)::text AS limit_amount,
       array_agg(c.used_amount + coalesce(m.used, 0))::text AS used_amount, array_agg(greatest(h.amount - coalesce(m.gone, 0), 0))::text AS reserved_amount,
       array_agg(${wholeMs('c.period_start')})::text AS period_start, array_agg(${wholeMs('c.period_end')})::text AS period_end,
       jsonb_object_agg(c.k, ${wholeMs('h.oldest')}) FILTER (WHERE ${isHeldLong('h.oldest')})::text AS held_long,
       ${wholeMs("date_trunc('milliseconds', now())")} AS at
  FROM counter c LEFT JOIN moved m ON m.k = c.k CROSS JOIN LATERAL ${heldSinceOf('c', 'c.since')} h`

/** SQL of a CTE: the requests, numbered `q`, of which all can be settled. */
const WHOLE = `whole AS MATERIALIZED (
  SELECT i.q FROM item i
    LEFT JOIN LATERAL (
      SELECT true AS is_held FROM quota_reservations r
       WHERE r.user_id = i.user_id AND r.id = i.id AND r.period_start = i.period_start AND NOT ${isLate('r.created_at')}
         FOR UPDATE
    ) r ON true
   GROUP BY i.q HAVING count(*) = count(r.is_held)
)`

const WAITING = settleMany({ waits: true })
const PASSING = settleMany({})
const SEVERAL_WAITING = settleMany({ several: true, waits: true })
const SEVERAL_PASSING = settleMany({ several: true })

type ToldRow = Record<
  'k' | 'done' | 'limit_amount' | 'used_amount' | 'reserved_amount' | 'period_start' | 'period_end',
  string | null
> & { held_long: string | null; at: number }

/**
 * Whether each was done, and its counter afterwards, in the order given; undefined where the counter is locked by somebody else, or does not exist.
 */
export class SettlingMany {
  readonly #heldSince: HeldSince
  readonly #patience = new Patience()

  constructor(heldSince: HeldSince) {
    this.#heldSince = heldSince
  }

  /** For requests that settle one reservation each. */
  readonly one = (db: Pick<Database, 'query'>, all: readonly Settlement[]): Promise<(Moved | undefined)[]> => {
    const heldSince = this.#heldSince
    return this.#patience.run(
      () => settle(db, WAITING, all, heldSince),
      () => settle(db, PASSING, all, heldSince)
    )
  }

  /** For requests that settle several: all of a request's, or none. */
  readonly several = async (
    db: Pick<Database, 'query'>,
    requests: readonly { settlements: readonly Settlement[] }[]
  ): Promise<(Moved | undefined)[][]> => {
    const heldSince = this.#heldSince
    const all = requests.flatMap(({ settlements }) => settlements)
    const requestOf = requests.flatMap(({ settlements }, q) => settlements.map(() => q))
    const told = await this.#patience.run(
      () => settle(db, SEVERAL_WAITING, all, heldSince, requestOf),
      () => settle(db, SEVERAL_PASSING, all, heldSince, requestOf)
    )
    return byRequest(
      told,
      requests.map(({ settlements }) => settlements.length)
    )
  }
}

async function settle(
  db: Pick<Database, 'query'>,
  text: string,
  settlements: readonly Settlement[],
  heldSince: HeldSince,
  requestOf?: readonly number[]
): Promise<(Moved | undefined)[]> {
  const counters = countersOf(settlements)
  const values = valuesOf(settlements, counters, heldSince)
  if (requestOf !== undefined)
    values.push(intArray(counters.flatMap(({ places }) => places.map(place => requestOf[place] as number))))
  const [row] = await db.query<ToldRow>(text, values)
  const answers: (Moved | undefined)[] = settlements.map(() => undefined)
  if (row !== undefined) answerEach(answers, counters, row, heldSince)
  return answers
}

interface Counter {
  key: string
  userId: string
  typeId: number
  /** The places of what is settled of it, among all. */
  places: number[]
}

/** In the order in which all statements lock counters. */
function countersOf(settlements: readonly Settlement[]): Counter[] {
  const known = new Map<string, Counter>()
  for (const [place, { userId, typeId }] of settlements.entries()) {
    const key = counterKey(userId, typeId)
    const counter = known.get(key)
    if (counter === undefined) known.set(key, { key, userId, typeId, places: [place] })
    else counter.places.push(place)
  }
  return [...known.values()].sort(byUserAndType)
}

function valuesOf(settlements: readonly Settlement[], counters: readonly Counter[], heldSince: HeldSince): string[] {
  const items = counters.flatMap(({ places }) => places.map(place => settlements[place] as Settlement))
  const charged = items.map(one => (one.do === 'commit' ? one : null))
  return [
    textArray(counters.map(({ userId }) => userId)),
    intArray(counters.map(({ typeId }) => typeId)),
    uuidArray(counters.map(({ key }) => heldSince.of(key))),
    intArray(counters.flatMap(({ places }, i) => places.map(() => i + 1))),
    uuidArray(items.map(({ id }) => id)),
    intOrNullArray(charged.map(one => one?.amount ?? null)),
    textArray(charged.map(one => one?.endpoint ?? null)),
    textArray(charged.map(one => one && metadataText(one.metadata)))
  ]
}

function answerEach(
  answers: (Moved | undefined)[],
  counters: readonly Counter[],
  row: ToldRow,
  heldSince: HeldSince
): void {
  const { at } = row
  const done = new Set(numbersOf(row.done))
  const oldest: Record<number, number> = JSON.parse(row.held_long ?? '{}')
  const [limits, used, reserved] = [row.limit_amount, row.used_amount, row.reserved_amount].map(numbersOf)
  const [starts, ends] = [row.period_start, row.period_end].map(numbersOf)
  const first: number[] = []
  let n = 1
  for (const { places } of counters) {
    first.push(n)
    n += places.length
  }
  for (const [i, k] of (numbersOf(row.k) as number[]).entries()) {
    const { key, places } = counters[k - 1] as Counter
    heldSince.learn(key, heldSince.idAt(oldest[k] ?? at))
    const counter = {
      limit_amount: limits![i] as number,
      used_amount: used![i] as number,
      reserved_amount: reserved![i] as number,
      period_start: starts![i] as number,
      period_end: ends![i] ?? null
    }
    for (const [turn, place] of places.entries())
      answers[place] = {
        ...counter,
        done: done.has((first[k - 1] as number) + turn),
        full: false,
        ended: false,
        dead: false,
        at
      }
  }
}
