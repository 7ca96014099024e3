// Reserves, charges and gives back for many requests in one statement, each of one quota type. What is not plain is left to the statements
// for one request: whoever gets no answer here asks them.
import type { Metadata } from '../quota/metadata.ts'
import type { CounterRow } from './admit.ts'
import { type Database, ms } from './database.ts'

export type Move = { userId: string; id: string; typeId: number } & (
  | { do: 'reserve'; amount: number; leaseMs: number }
  | { do: 'commit'; amount: number; periodStart: Date; admittedAt: Date; endpoint: string | null; metadata: Metadata }
  | { do: 'release'; periodStart: Date }
)

/** The counter afterwards; for a reserve as it was after its own turn. */
export interface Moved extends CounterRow {
  n: number
  done: boolean
  /** A reserve that does not fit, also after all that was moved here, and nothing is dead that could be given back. */
  full: boolean
  admitted_at: number | null
  at: number
}

/**
 * `counter` is locked first and in one order, like everywhere. What somebody else has locked is skipped, so that one user who is held up
 * holds up nobody else. A reservation is charged or given back if it is there and its period runs; what has expired, or belongs to a closed
 * period, is left out. Those who want are let in while the sum of all before them fits, also of those who are refused: too few at worst.
 * Nobody who is left out is told "no" here.
 *
 * The counters are set to what was read under the lock, not moved: an UPDATE sees the snapshot's row first.
 */
/** Unlimited ends where JavaScript's whole numbers do. */
const ceilingOf = (row: string) =>
  `CASE WHEN ${row}.limit_amount < 0 THEN ${Number.MAX_SAFE_INTEGER} ELSE ${row}.limit_amount END`

const moveMany = (locking: 'SKIP LOCKED' | '') => `
WITH clock AS MATERIALIZED (
  SELECT now() AS at
), item AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb)
    AS i (n int, what "char", user_id text, id uuid, quota_type_id int, amount bigint, lease_ms int, period_start timestamptz,
          created_at timestamptz, endpoint text, metadata jsonb)
), counter AS MATERIALIZED (
  SELECT l.user_id, l.quota_type_id, l.limit_amount, l.used_amount, l.reserved_amount, l.period_start, l.period_end,
         l.period_end IS NULL OR l.period_end > clock.at AS running
    FROM quota_limits l CROSS JOIN clock
   WHERE (l.user_id, l.quota_type_id) IN (SELECT i.user_id, i.quota_type_id FROM item i)
   ORDER BY l.user_id, l.quota_type_id
     FOR UPDATE OF l ${locking}
), held AS MATERIALIZED (
  DELETE FROM quota_reservations r
   USING item i JOIN counter c ON c.user_id = i.user_id AND c.quota_type_id = i.quota_type_id AND c.period_start = i.period_start
   WHERE i.what <> 'r' AND r.user_id = i.user_id AND r.id = i.id
  RETURNING i.n, i.what, i.user_id, i.quota_type_id, i.id, i.created_at, i.endpoint, i.metadata, r.amount AS held,
            CASE i.what WHEN 'c' THEN i.amount ELSE 0 END AS amount
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT h.user_id, h.id, h.quota_type_id, h.amount, h.endpoint, h.metadata, h.created_at FROM held h WHERE h.what = 'c'
), settled AS MATERIALIZED (
  SELECT h.user_id, h.quota_type_id, sum(h.amount - h.held)::bigint AS used, -sum(h.held)::bigint AS reserved FROM held h GROUP BY 1, 2
), wanted AS MATERIALIZED (
  SELECT i.n, i.id, i.user_id, i.quota_type_id, i.amount, i.lease_ms, c.limit_amount, c.period_start, c.period_end,
         c.used_amount + coalesce(s.used, 0) + sum(i.amount) OVER turn AS used_after,
         c.reserved_amount + coalesce(s.reserved, 0) + sum(i.amount) OVER turn AS reserved_after
    FROM item i
    JOIN counter c ON c.user_id = i.user_id AND c.quota_type_id = i.quota_type_id AND c.running
    LEFT JOIN settled s ON s.user_id = i.user_id AND s.quota_type_id = i.quota_type_id
   WHERE i.what = 'r'
  WINDOW turn AS (PARTITION BY i.user_id, i.quota_type_id ORDER BY i.n)
), admitted AS MATERIALIZED (
  SELECT w.*, clock.at, greatest(date_trunc('milliseconds', clock.at), w.period_start) AS admitted_at
    FROM wanted w CROSS JOIN clock
   WHERE w.used_after <= ${ceilingOf('w')}
), delta AS MATERIALIZED (
  SELECT user_id, quota_type_id, sum(used)::bigint AS used, sum(reserved)::bigint AS reserved
    FROM (SELECT user_id, quota_type_id, used, reserved FROM settled
          UNION ALL
          SELECT user_id, quota_type_id, amount, amount FROM admitted) AS moves
   GROUP BY 1, 2
), moved AS (
  UPDATE quota_limits l
     SET used_amount = c.used_amount + d.used, reserved_amount = c.reserved_amount + d.reserved, updated_at = now()
    FROM delta d JOIN counter c ON c.user_id = d.user_id AND c.quota_type_id = d.quota_type_id
   WHERE l.user_id = d.user_id AND l.quota_type_id = d.quota_type_id
  RETURNING l.user_id, l.quota_type_id, l.limit_amount, l.used_amount, l.reserved_amount, l.period_start, l.period_end
), reserved AS (
  INSERT INTO quota_reservations (user_id, id, quota_type_id, amount, period_start, created_at, expires_at)
  SELECT a.user_id, a.id, a.quota_type_id, a.amount, a.period_start, a.admitted_at, a.at + a.lease_ms * interval '1 millisecond' FROM admitted a
)
SELECT i.n, a.n IS NOT NULL OR h.n IS NOT NULL AS done,
       i.what = 'r' AND c.running AND coalesce(m.used_amount, c.used_amount) + i.amount > ${ceilingOf('c')}
         AND NOT EXISTS (SELECT 1 FROM quota_reservations r WHERE r.user_id = i.user_id AND r.expires_at <= clock.at) AS full,
       coalesce(a.limit_amount, m.limit_amount, c.limit_amount) AS limit_amount,
       coalesce(a.used_after::bigint, m.used_amount, c.used_amount) AS used_amount,
       coalesce(a.reserved_after::bigint, m.reserved_amount, c.reserved_amount) AS reserved_amount,
       ${ms('c.period_start')} AS period_start, ${ms('c.period_end')} AS period_end, ${ms('a.admitted_at')} AS admitted_at, ${ms('clock.at')} AS at
  FROM item i CROSS JOIN clock
  JOIN counter c ON c.user_id = i.user_id AND c.quota_type_id = i.quota_type_id
  LEFT JOIN admitted a ON a.n = i.n
  LEFT JOIN held h ON h.n = i.n
  LEFT JOIN moved m ON m.user_id = i.user_id AND m.quota_type_id = i.quota_type_id`

const OF_MANY = moveMany('SKIP LOCKED')
/** Waits for the rows: for moves of one user, who waits for nobody else. */
const OF_ONE = moveMany('')

const LETTERS = { reserve: 'r', commit: 'c', release: 'x' } as const

/** What became of each, in the order of `moves`; undefined where the counter is locked by somebody else, or not there. */
export async function moveManyUsers(
  db: Pick<Database, 'query'>,
  moves: readonly Move[]
): Promise<(Moved | undefined)[]> {
  return answersOf(moves, await db.query<Moved>(OF_MANY, [rowsOf(moves)]))
}

/** The same for moves of one user, also while others move that user's counters. */
export async function moveOneUser(db: Pick<Database, 'query'>, moves: readonly Move[]): Promise<(Moved | undefined)[]> {
  return answersOf(moves, await db.query<Moved>(OF_ONE, [rowsOf(moves)]))
}

function answersOf(moves: readonly Move[], rows: readonly Moved[]): (Moved | undefined)[] {
  const answers: (Moved | undefined)[] = moves.map(() => undefined)
  for (const row of rows) answers[row.n] = row
  return answers
}

const rowsOf = (moves: readonly Move[]): string =>
  JSON.stringify(
    moves.map((move, n) => ({
      n,
      what: LETTERS[move.do],
      user_id: move.userId,
      id: move.id,
      quota_type_id: move.typeId,
      ...(move.do === 'reserve' ? { amount: move.amount, lease_ms: move.leaseMs } : { period_start: move.periodStart }),
      ...(move.do === 'commit'
        ? { amount: move.amount, created_at: move.admittedAt, endpoint: move.endpoint, metadata: move.metadata }
        : {})
    }))
  )
