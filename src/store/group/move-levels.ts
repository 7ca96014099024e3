// Credits and sets the levels of many users in one statement. Whatever gets no answer here is asked for by itself.
import { MAX_AMOUNT } from '../../quota/amount.ts'
import type { CounterRow } from '../charge/counter-balance.ts'
import { heldOf } from '../charge/held.ts'
import { counterKey } from '../charge/held-since.ts'
import { answerOf } from '../charge/recall-charge.ts'
import type { LevelMove } from '../charge/set-level.ts'
import { type Database, ms } from '../database.ts'

/** The counter as it was after its own turn; or where its key is known, after all. */
export interface MovedLevel extends CounterRow {
  /** It was left out because its idempotency key is known. */
  known: boolean
}

/**
 * Each has a number, `n`, and the number of its counter's first one, `k`. The counter is read under its lock, and what is held of it by the statement's
 * snapshot. They belong together where the counter is still the row that the snapshot has (`ctid`): whoever reserves or gives back moves the counter too.
 * What is charged meanwhile as it was held does not, and becomes a log row of its own. A counter that somebody else has locked, or has changed just now,
 * is left out, and so is a level that would be past 2^53−1 with what is held.
 *
 * A level is what was set last (in `span`), or what it was, less all credits since, but never less than 0. LATERAL, and ANY instead of `=`, have each
 * looked up by its key, as in `hold-many.ts`. Keys are taken in one order; one that another process has just taken (23505) undoes the whole statement.
 */
const MOVE_LEVELS = `
WITH item AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb)
    AS i (n int, k int, user_id text, quota_type_id int, id uuid, amount bigint, is_set boolean, endpoint text, metadata jsonb, key text)
), counter AS MATERIALIZED (
  SELECT i.k, l.*, ${heldOf('l')} AS held
    FROM item i
   CROSS JOIN LATERAL (
      SELECT q.user_id, q.quota_type_id, q.limit_amount, q.used_amount, q.period_start, q.period_end, q.ctid AS version
        FROM quota_limits q WHERE q.user_id = i.user_id AND q.quota_type_id = i.quota_type_id
         FOR NO KEY UPDATE SKIP LOCKED
    ) l
   WHERE i.n = i.k
     AND l.version = (SELECT q.ctid FROM quota_limits q WHERE q.user_id = i.user_id AND q.quota_type_id = i.quota_type_id)
), asked AS (
  SELECT c.*, c.used_amount - c.held AS level_before, i.n, i.id, i.amount, i.is_set, i.endpoint, i.metadata, i.key,
         i.key IS NOT NULL AND EXISTS (SELECT 1 FROM quota_idempotency_keys q WHERE q.user_id = c.user_id AND q.key = i.key) AS known
    FROM item i JOIN counter c ON c.k = i.k
   WHERE NOT i.is_set OR i.amount + c.held <= ${MAX_AMOUNT}
), turn AS (
  SELECT a.*, count(*) FILTER (WHERE a.is_set) OVER (PARTITION BY a.k ORDER BY a.n) AS span FROM asked a WHERE NOT a.known
), leveled AS (
  SELECT t.*, greatest(coalesce(max(t.amount) FILTER (WHERE t.is_set) OVER (PARTITION BY t.k, t.span), t.level_before)
                       - coalesce(sum(t.amount) FILTER (WHERE NOT t.is_set) OVER (PARTITION BY t.k, t.span ORDER BY t.n), 0), 0)::bigint AS level
    FROM turn t
), moved AS MATERIALIZED (
  SELECT l.*, l.level - lag(l.level, 1, l.level_before) OVER (PARTITION BY l.k ORDER BY l.n) AS change FROM leveled l
), counted AS (
  UPDATE quota_limits l SET used_amount = m.level + m.held, updated_at = now()
    FROM (SELECT DISTINCT ON (k) user_id, quota_type_id, level, held FROM moved ORDER BY k, n DESC) m
   WHERE l.user_id = ANY (ARRAY[m.user_id]) AND l.quota_type_id = m.quota_type_id
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT m.user_id, m.id, m.quota_type_id, m.change, m.endpoint, m.metadata, greatest(date_trunc('milliseconds', now()), m.period_start) FROM moved m
), remembered AS (
  INSERT INTO quota_idempotency_keys (user_id, key, quota_type_id, amount, balance)
  SELECT m.user_id, m.key, m.quota_type_id, -m.amount, ${answerOf('m.limit_amount', 'm.level + m.held', 'm.held', 'm.period_start', 'm.period_end')}
    FROM moved m WHERE m.key IS NOT NULL ORDER BY m.user_id, m.key
)
SELECT a.n, a.known, a.limit_amount, coalesce(m.level + a.held, a.used_amount) AS used_amount, a.held AS reserved_amount,
       ${ms('a.period_start')} AS period_start, ${ms('a.period_end')} AS period_end
  FROM asked a LEFT JOIN moved m ON m.n = a.n`

/** What became of each, in the order given; undefined for what was left out. */
export async function moveLevels(
  db: Pick<Database, 'query'>,
  moves: readonly LevelMove[]
): Promise<(MovedLevel | undefined)[]> {
  const rows = await db.query<MovedLevel & { n: number }>(MOVE_LEVELS, [itemsOf(moves)])
  const answers: (MovedLevel | undefined)[] = moves.map(() => undefined)
  for (const row of rows) answers[row.n] = row
  return answers
}

function itemsOf(moves: readonly LevelMove[]): string {
  const first = new Map<string, number>()
  const items = moves.map(({ userId, typeId, id, amount, move, endpoint, metadata, idempotencyKey: key }, n) => {
    const counter = counterKey(userId, typeId)
    const k = first.get(counter) ?? n
    first.set(counter, k)
    return { n, k, user_id: userId, quota_type_id: typeId, id, amount, is_set: move === 'set', endpoint, metadata, key }
  })
  return JSON.stringify(items)
}
