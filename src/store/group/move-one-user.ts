// Reserves, charges and releases for one user's requests in one statement, each of one quota type, one after another: for those that could not be held or
// settled together with others. Whatever gets no answer here is asked for by itself.
import type { Metadata } from '../../quota/metadata.ts'
import type { CounterRow } from '../charge/counter-balance.ts'
import { expiryOf, heldSinceOf } from '../charge/held.ts'
import { counterKey, type HeldSince, isHeldLong } from '../charge/held-since.ts'
import { type Database, wholeMs } from '../database.ts'
import { isLate } from '../rollup/mark-usage.ts'

export type Move = { userId: string; id: string; typeId: number } & (
  | { do: 'reserve'; amount: number; leaseMs: number }
  | { do: 'commit'; amount: number; endpoint: string | null; metadata: Metadata }
  | { do: 'release' }
)

export type Settlement = Extract<Move, { do: 'commit' | 'release' }>

/** The counter afterwards; for a reserve that was made, as it was after its own turn. */
export interface Moved extends CounterRow {
  done: boolean
  /** A reserve that does not fit even after all that was moved here, and nothing has expired that could be released. */
  full: boolean
  /** The period has ended. */
  ended: boolean
  /** It did not fit, but something has expired that could be released. */
  dead: boolean
  /** The instant, by the database's clock. */
  at: number
}

/** Even an unlimited quota ends at JavaScript's largest safe integer. */
const MOST = Number.MAX_SAFE_INTEGER

/**
 * Each move has a number, `n`, and the number of its counter's first move, `k`. Charges and releases come before reserves.
 *
 * `counter` is locked first and in one order, as everywhere. Only this user's rows are waited for, and the user is named at every table, for a
 * database that is distributed by user. A reservation is charged or released if it is there and its period runs; one that is gone, belongs to
 * a closed period, or was admitted so long ago that its log row leaves a mark, is left out. Reserves are admitted while the sum of all before
 * them fits, including those that are refused: at worst too few are admitted. What is left out is not told "no" here.
 *
 * The counters are set from what was read under the lock, not incremented: an UPDATE sees the snapshot's row first.
 */
const MOVE = `
WITH item AS MATERIALIZED (
  SELECT n, k, what, since, quota_type_id, id, amount, lease_ms, endpoint, metadata
    FROM jsonb_to_recordset($1::text::jsonb)
      AS i (n int, k int, what "char", since uuid, quota_type_id int, id uuid, amount bigint, lease_ms int, endpoint text, metadata jsonb)
), counter AS MATERIALIZED (
  SELECT i.k, i.since, l.*
    FROM (SELECT * FROM item WHERE n = k ORDER BY quota_type_id) i
   CROSS JOIN LATERAL (
      SELECT q.user_id, q.quota_type_id, q.limit_amount, q.used_amount, q.period_start, q.period_end
        FROM quota_limits q WHERE q.user_id = $2 AND q.quota_type_id = i.quota_type_id
         FOR UPDATE
    ) l
), held AS MATERIALIZED (
  DELETE FROM quota_reservations r
   USING item i JOIN counter c ON c.k = i.k
   WHERE i.what <> 'r' AND r.user_id = $2 AND r.id = i.id AND r.period_start = c.period_start
     AND NOT ${isLate('r.created_at')}
  RETURNING i.n, i.what, CASE i.what WHEN 'c' THEN i.amount ELSE 0 END AS amount, r.amount AS held, r.id, r.created_at, i.endpoint, i.metadata, c.*
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT $2, id, quota_type_id, amount, endpoint, coalesce(metadata, '{}'), created_at FROM held WHERE what = 'c'
), turn AS (
  SELECT n, amount - held AS used, -held AS reserved, NULL::uuid AS id, NULL::int AS lease_ms,
         k, since, user_id, quota_type_id, limit_amount, used_amount, period_start, period_end
    FROM held
  UNION ALL
  SELECT i.n, i.amount, i.amount, i.id, i.lease_ms,
         c.k, c.since, c.user_id, c.quota_type_id, c.limit_amount, c.used_amount, c.period_start, c.period_end
    FROM item i JOIN counter c ON c.k = i.k WHERE i.what = 'r'
), made AS MATERIALIZED (
  SELECT t.*, t.id IS NULL OR (t.period_end IS NULL OR t.period_end > now())
         AND t.used_amount + sum(t.used) OVER (PARTITION BY t.k ORDER BY t.n) <= CASE WHEN t.limit_amount < 0 THEN ${MOST} ELSE t.limit_amount END AS done
    FROM turn t
), moved AS MATERIALIZED (
  SELECT k, since, user_id, quota_type_id, limit_amount, period_start, period_end,
         used_amount + coalesce(sum(used) FILTER (WHERE done), 0)::bigint AS used_amount,
         coalesce(sum(reserved) FILTER (WHERE done), 0)::bigint AS reserved,
         string_agg(n::text, ',') FILTER (WHERE done) AS done, bool_and(done) AS all_done
    FROM made GROUP BY k, since, user_id, quota_type_id, limit_amount, used_amount, period_start, period_end
), counted AS (
  UPDATE quota_limits l SET used_amount = m.used_amount, updated_at = now()
    FROM moved m
   WHERE l.user_id = $2 AND l.quota_type_id = m.quota_type_id AND m.done IS NOT NULL
), reserved AS (
  INSERT INTO quota_reservations (user_id, id, quota_type_id, amount, period_start, created_at, expires_at)
  SELECT $2, id, quota_type_id, used, period_start, greatest(date_trunc('milliseconds', now()), period_start),
         ${expiryOf('period_start', 'lease_ms')}
    FROM made WHERE id IS NOT NULL AND done
)
SELECT m.k, m.done, m.period_end IS NULL OR m.period_end > now() AS running, m.limit_amount, m.used_amount,
       greatest(h.amount + m.reserved, 0) AS reserved_amount, CASE WHEN ${isHeldLong('h.oldest')} THEN ${wholeMs('h.oldest')} END AS held_long,
       ${wholeMs('m.period_start')} AS period_start, ${wholeMs('m.period_end')} AS period_end, ${wholeMs("date_trunc('milliseconds', now())")} AS at,
       NOT m.all_done AND EXISTS (SELECT 1 FROM quota_reservations r WHERE r.user_id = $2 AND r.expires_at <= now()) AS dead
  FROM moved m CROSS JOIN LATERAL ${heldSinceOf('m', 'm.since', '$2')} h`

/** A counter afterwards, and the numbers of the moves that were made. */
interface MovedCounter extends CounterRow {
  k: number
  done: string | null
  running: boolean
  dead: boolean
  /** When the oldest of what has been held for long was admitted. */
  held_long: number | null
  at: number
}

/** What became of each, in the order of `moves`; undefined where there is no such counter. */
export async function moveOneUser(
  db: Pick<Database, 'query'>,
  moves: readonly Move[],
  heldSince: HeldSince
): Promise<(Moved | undefined)[]> {
  const counters = countersOf(moves)
  const rows = await db.query<MovedCounter>(MOVE, [itemsOf(counters, heldSince), (moves[0] as Move).userId])
  const answers: (Moved | undefined)[] = moves.map(() => undefined)
  const byFirst = new Map(rows.map(row => [row.k, row]))
  for (const [key, numbered] of counters) {
    const row = byFirst.get((numbered[0] as Numbered).n)
    if (row === undefined) continue
    heldSince.learn(key, heldSince.idAt(row.held_long ?? row.at))
    answer(answers, numbered, row)
  }
  return answers
}

interface Numbered {
  n: number
  /** Its place among all moves. */
  place: number
  move: Move
}

/** The moves of each counter, settlements first, and numbered in that order. */
function countersOf(moves: readonly Move[]): Map<string, Numbered[]> {
  const counters = new Map<string, Numbered[]>()
  let n = 0
  const add = (move: Move, place: number) => {
    const key = counterKey(move.userId, move.typeId)
    const numbered = counters.get(key)
    if (numbered === undefined) counters.set(key, [{ n, place, move }])
    else numbered.push({ n, place, move })
    n += 1
  }
  for (const [place, move] of moves.entries()) if (move.do !== 'reserve') add(move, place)
  for (const [place, move] of moves.entries()) if (move.do === 'reserve') add(move, place)
  return counters
}

function itemsOf(counters: Map<string, readonly Numbered[]>, heldSince: HeldSince): string {
  const items: object[] = []
  for (const [key, numbered] of counters) {
    const k = (numbered[0] as Numbered).n
    for (const { n, move } of numbered) items.push(itemOf(n, k, n === k ? heldSince.of(key) : undefined, move))
  }
  return JSON.stringify(items)
}

/** Written out: spreading what they share took a tenth of what a request costs this process. */
function itemOf(n: number, k: number, since: string | undefined, move: Move): object {
  const { typeId: quota_type_id, id } = move
  if (move.do === 'release') return { n, k, what: 'x', since, quota_type_id, id }
  const { amount } = move
  if (move.do === 'reserve') return { n, k, what: 'r', since, quota_type_id, id, amount, lease_ms: move.leaseMs }
  return {
    n,
    k,
    what: 'c',
    since,
    quota_type_id,
    id,
    amount,
    endpoint: move.endpoint,
    metadata: move.metadata
  }
}

/** From the last turn back to the first: the row has the counter as it is after all of them. */
function answer(answers: (Moved | undefined)[], numbered: readonly Numbered[], row: MovedCounter): void {
  const done = new Set(row.done?.split(',').map(Number))
  const [limit_amount, at] = [Number(row.limit_amount), row.at]
  const { period_start, period_end } = row
  let [used_amount, reserved_amount] = [Number(row.used_amount), Number(row.reserved_amount)]
  const room = (limit_amount < 0 ? MOST : limit_amount) - used_amount
  for (let i = numbered.length - 1; i >= 0; i--) {
    const { n, place, move } = numbered[i] as Numbered
    const isDone = done.has(n)
    const full = move.do === 'reserve' && !isDone && row.running && !row.dead && move.amount > room
    answers[place] = {
      done: isDone,
      full,
      ended: !row.running,
      dead: row.dead,
      limit_amount,
      used_amount,
      reserved_amount,
      period_start,
      period_end,
      at
    }
    if (move.do === 'reserve' && isDone) {
      used_amount -= move.amount
      reserved_amount -= move.amount
    }
  }
}
