// Charges at once for many calls in one statement, with nothing held before: the counter is moved, and there is a log row, and what is remembered of an
// idempotency key. Whatever gets no answer here is asked for by itself.
import type { Metadata } from '../../quota/metadata.ts'
import { CEILING } from '../charge/admit.ts'
import type { CounterRow } from '../charge/counter-balance.ts'
import { heldSinceOf } from '../charge/held.ts'
import { counterKey, type HeldSince, isHeldLong } from '../charge/held-since.ts'
import { PATIENCE } from '../charge/of-many.ts'
import { answerOf } from '../charge/recall-charge.ts'
import { type Database, ms } from '../database.ts'
import { Patience } from './patience.ts'

/** What is to be charged. */
export interface Outlay {
  userId: string
  id: string
  typeId: number
  amount: number
  endpoint: string | null
  metadata: Metadata
  idempotencyKey: string | null
}

/** The counter as it was after its own turn; where it was not charged, after all. */
export interface Spent extends CounterRow {
  done: boolean
  /** It was left out because its idempotency key is known. */
  known: boolean
  /** It does not fit even after all that was charged here, and nothing has expired that could be released. */
  full: boolean
  /** The period has ended. */
  ended: boolean
  /** It did not fit, but something has expired that could be released. */
  dead: boolean
  /** The instant, by the database's clock. */
  at: number
}

/**
 * Each has a number, `n`, and the number of its counter's first one, `k`. Counters are locked first and in one order, as everywhere. For many users, one
 * that somebody else has locked is skipped (or, with `waits`, waited for only for a moment), so that one user who is held up holds up nobody else. They
 * are charged while the sum of all before them fits, including those that are refused: at worst too few are. What is left out is not told "no" here.
 * LATERAL, and ANY instead of `=`, have each looked up by its key, as in `hold-many.ts`.
 *
 * A key that another process has just taken (23505) undoes the whole statement. Keys are taken in one order, so that two statements that take the same
 * ones for different types do not wait for each other forever.
 */
const chargeAtOnce = ({ ofOneUser = false, waits = false }) => {
  const user = (alias: string) => (ofOneUser ? '$2' : `${alias}.user_id`)
  return `
WITH ${waits ? `${PATIENCE}, ` : ''}item AS MATERIALIZED (
  SELECT i.* FROM ${waits ? 'patience, ' : ''}jsonb_to_recordset($1::text::jsonb)
      AS i (n int, k int, since uuid, user_id text, quota_type_id int, id uuid, amount bigint, endpoint text, metadata jsonb, key text)
), counter AS MATERIALIZED (
  SELECT i.k, i.since, l.*
    FROM (SELECT * FROM item WHERE n = k ORDER BY user_id COLLATE "C", quota_type_id) i
   CROSS JOIN LATERAL (
      SELECT q.user_id, q.quota_type_id, q.limit_amount, q.used_amount, q.period_start, q.period_end
        FROM quota_limits q WHERE q.user_id = ${user('i')} AND q.quota_type_id = i.quota_type_id
         FOR NO KEY UPDATE ${ofOneUser || waits ? '' : 'SKIP LOCKED'}
    ) l
), held AS MATERIALIZED (
  SELECT l.k, h.* FROM counter l CROSS JOIN LATERAL ${heldSinceOf('l', 'l.since', user('l'))} h
), asked AS (
  SELECT l.*, i.n, i.id, i.amount, i.endpoint, i.metadata, i.key, l.period_end IS NULL OR l.period_end > now() AS running,
         i.key IS NOT NULL AND EXISTS (SELECT 1 FROM quota_idempotency_keys q WHERE q.user_id = ${user('l')} AND q.key = i.key) AS known
    FROM item i JOIN counter l ON l.k = i.k
), turn AS (
  SELECT a.*, a.used_amount + sum(CASE WHEN a.known THEN 0 ELSE a.amount END) OVER (PARTITION BY a.k ORDER BY a.n)::bigint AS used_then FROM asked a
), spent AS MATERIALIZED (
  SELECT l.*, l.running AND NOT l.known AND l.used_then <= ${CEILING} AS done FROM turn l
), counted AS (
  UPDATE quota_limits l SET used_amount = s.used_amount, updated_at = now()
    FROM (SELECT user_id, quota_type_id, max(used_then) AS used_amount FROM spent WHERE done GROUP BY 1, 2) s
   WHERE l.user_id = ANY (ARRAY[${user('s')}]) AND l.quota_type_id = s.quota_type_id
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT ${user('s')}, s.id, s.quota_type_id, s.amount, s.endpoint, coalesce(s.metadata, '{}'),
         greatest(date_trunc('milliseconds', now()), s.period_start)
    FROM spent s WHERE s.done
), remembered AS (
  INSERT INTO quota_idempotency_keys (user_id, key, quota_type_id, amount, balance)
  SELECT ${user('s')}, s.key, s.quota_type_id, s.amount, ${answerOf('s.limit_amount', 's.used_then', 'h.amount', 's.period_start', 's.period_end')}
    FROM spent s JOIN held h ON h.k = s.k WHERE s.done AND s.key IS NOT NULL
   ORDER BY s.user_id, s.key
)
SELECT s.n, s.done, s.known, s.running, s.limit_amount, h.amount AS reserved_amount,
       CASE WHEN s.done THEN s.used_then ELSE coalesce(max(s.used_then) FILTER (WHERE s.done) OVER (PARTITION BY s.k), s.used_amount) END AS used_amount,
       ${ms('s.period_start')} AS period_start, ${ms('s.period_end')} AS period_end, ${ms("date_trunc('milliseconds', now())")} AS at,
       CASE WHEN ${isHeldLong('h.oldest')} THEN ${ms('h.oldest')} END AS held_long,
       h.dead AND NOT s.done AS dead
  FROM spent s JOIN held h ON h.k = s.k`
}

const WAITING = chargeAtOnce({ waits: true })
const PASSING = chargeAtOnce({})
/** Waits for this user's rows only; names the user at every table, for a database that is distributed by user. */
const OF_ONE = chargeAtOnce({ ofOneUser: true })

interface SpentRow extends CounterRow {
  n: number
  done: boolean
  known: boolean
  running: boolean
  dead: boolean
  /** When the oldest of what has been held for long was admitted. */
  held_long: number | null
  at: number
}

/** What became of each, in the order given; undefined where the counter is locked by somebody else, or does not exist. */
export class Spending {
  readonly #heldSince: HeldSince
  readonly #patience = new Patience()

  constructor(heldSince: HeldSince) {
    this.#heldSince = heldSince
  }

  readonly ofMany = (db: Pick<Database, 'query'>, outlays: readonly Outlay[]): Promise<(Spent | undefined)[]> =>
    this.#patience.run(
      () => this.#ask(db, outlays, WAITING),
      () => this.#ask(db, outlays, PASSING)
    )

  /** For outlays of one user, even while others move that user's counters. */
  readonly ofOne = (db: Pick<Database, 'query'>, outlays: readonly Outlay[]): Promise<(Spent | undefined)[]> =>
    this.#ask(db, outlays, OF_ONE, [(outlays[0] as Outlay).userId])

  async #ask(
    db: Pick<Database, 'query'>,
    outlays: readonly Outlay[],
    text: string,
    user: [string] | [] = []
  ): Promise<(Spent | undefined)[]> {
    const rows = await db.query<SpentRow>(text, [this.#itemsOf(outlays), ...user])
    const answers: (Spent | undefined)[] = outlays.map(() => undefined)
    for (const row of rows) {
      const outlay = outlays[row.n] as Outlay
      this.#heldSince.learn(keyOf(outlay), this.#heldSince.idAt(row.held_long ?? row.at))
      answers[row.n] = spentOf(row, outlay)
    }
    return answers
  }

  #itemsOf(outlays: readonly Outlay[]): string {
    const first = new Map<string, number>()
    const items = outlays.map((outlay, n) => {
      const counter = keyOf(outlay)
      const k = first.get(counter) ?? n
      first.set(counter, k)
      const { userId: user_id, typeId: quota_type_id, id, amount, endpoint, metadata, idempotencyKey: key } = outlay
      const since = n === k ? this.#heldSince.of(counter) : undefined
      return { n, k, since, user_id, quota_type_id, id, amount, endpoint, metadata, key }
    })
    return JSON.stringify(items)
  }
}

const keyOf = ({ userId, typeId }: Outlay): string => counterKey(userId, typeId)

function spentOf(row: SpentRow, { amount }: Outlay): Spent {
  const { done, known, running, dead, period_start, period_end, at } = row
  const counter = {
    limit_amount: Number(row.limit_amount),
    used_amount: Number(row.used_amount),
    reserved_amount: Number(row.reserved_amount),
    period_start,
    period_end
  }
  const room = (counter.limit_amount < 0 ? Number.MAX_SAFE_INTEGER : counter.limit_amount) - counter.used_amount
  const full = !done && !known && running && !dead && amount > room
  return { ...counter, done, known, full, ended: !running, dead, at }
}
