// Holds for many requests in one statement, whatever they ask for, and waits for nobody. Where it can be, `hold-alike.ts` is quicker.

import { CEILING } from '../charge/admit.ts'
import type { Database } from '../database.ts'
import { heldWhere, ITEM, MISSING, tell, WANT } from './hold-statement.ts'
import type { Told, Wishes } from './wishes.ts'

/**
 * A counter that somebody else has locked is skipped, so that one user who is held up holds up nobody else. Where not all wishes for a counter
 * fit, but some might, `turn` goes through them, and admits each that fits after those before it. Counters are looked up one by one (LATERAL,
 * and ANY instead of `=`, which no hash or merge join takes), even by a plan made while the tables were empty, which otherwise would read all of
 * quota_limits for each statement. The guard stands in the UPDATE's own WHERE, which is evaluated on the snapshot's row first: a counter that was
 * rolled over or given something back meanwhile may be locked and not counted. `moved` is null where nothing fits.
 */
const HOLD_MANY = `
WITH want AS MATERIALIZED (
  SELECT * FROM ${WANT}
), ${ITEM}, free AS MATERIALIZED (
  SELECT w.k, CASE WHEN l.used_amount + w.amount <= ${CEILING} THEN w.amount ELSE t.moved END AS moved, t.let_in, l.*
    FROM want w
   CROSS JOIN LATERAL (
      SELECT q.user_id, q.quota_type_id, q.limit_amount, q.used_amount, q.period_start, q.period_end
        FROM quota_limits q WHERE q.user_id = w.user_id AND q.quota_type_id = w.quota_type_id
         FOR NO KEY UPDATE SKIP LOCKED
    ) l
    LEFT JOIN LATERAL (
      WITH RECURSIVE turn AS (
        SELECT min(i.n) - 1 AS n, 0::bigint AS moved, '{}'::bigint[] AS let_in FROM item i WHERE i.k = w.k
         UNION ALL
        SELECT i.n, t.moved + CASE WHEN fits THEN i.amount ELSE 0 END, CASE WHEN fits THEN t.let_in || i.n ELSE t.let_in END
          FROM turn t JOIN item i ON i.k = w.k AND i.n = t.n + 1
         CROSS JOIN LATERAL (SELECT l.used_amount + t.moved + i.amount <= ${CEILING} AS fits) f
      )
      SELECT CASE WHEN t.let_in <> '{}' THEN t.moved END AS moved, t.let_in
        FROM turn t WHERE l.used_amount + w.amount > ${CEILING} AND l.used_amount + w.least <= ${CEILING} ORDER BY t.n DESC LIMIT 1
    ) t ON true
), counted AS (
  UPDATE quota_limits l SET used_amount = l.used_amount + f.moved, updated_at = now()
    FROM free f
   WHERE l.user_id = ANY (ARRAY[f.user_id]) AND l.quota_type_id = f.quota_type_id
     AND l.used_amount + f.moved <= ${CEILING} AND (l.period_end IS NULL OR l.period_end > now())
  RETURNING f.k, f.let_in, l.user_id, l.quota_type_id, l.period_start
), ${heldWhere('(c.let_in IS NULL OR i.n = ANY (c.let_in))')}
${tell(
  'free f',
  true,
  `, array_agg((f.k IN (SELECT k FROM counted))::int)::text AS counted, (SELECT array_agg(n)::text FROM counted, unnest(let_in) n) AS let_in,
       ${MISSING}`
)}`

/**
 * First come, first served. OUTDATED: there is no such counter, or its period has ended. Undefined leaves a wish to others: somebody else has
 * locked its counter or changed it just now, or it does not fit but something has expired that could be released.
 */
export const holdMany = (db: Pick<Database, 'query'>, wishes: Wishes): Promise<Told[]> =>
  wishes.ask(db, { text: HOLD_MANY, isBounded: true })
