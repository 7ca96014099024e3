// Moves a level by hand: credits what was given back, or sets it to what was measured.
import type { Balance } from '../../quota/balance.ts'
import { withoutRoom } from '../../quota/counter.ts'
import { FST_QUOTA_STORE } from '../../quota/errors.ts'
import type { Metadata } from '../../quota/metadata.ts'
import { type Database, ms, stateOf, transaction } from '../database.ts'
import { balanceOf, type CounterRow } from './counter-balance.ts'
import { ensureUser } from './ensure-user.ts'
import { heldOf } from './held.ts'
import { insistOnTypes } from './insist-on-types.ts'

/** A separate statement: what is held is read by the next one, whose snapshot is newer than the lock, and nobody can hold more meanwhile. */
const LOCK = 'SELECT 1 FROM quota_limits WHERE user_id = $1 AND quota_type_id = $2::int FOR NO KEY UPDATE'

/**
 * The log row records the difference, so that a level stays the sum of its log; what running work holds is not part of it. A key that is
 * already taken (23505) undoes the move too.
 */
const SET_LEVEL = `
WITH counter AS MATERIALIZED (
  SELECT l.quota_type_id, l.used_amount - h.amount AS level_before, h.amount AS held,
         CASE WHEN $4::boolean THEN $3::bigint ELSE greatest(l.used_amount - h.amount - $3::bigint, 0) END AS level
    FROM quota_limits l CROSS JOIN LATERAL (SELECT ${heldOf('l')} AS amount) h
   WHERE l.user_id = $1 AND l.quota_type_id = $2::int
), moved AS (
  UPDATE quota_limits l SET used_amount = c.level + c.held, updated_at = now()
    FROM counter c WHERE l.user_id = $1 AND l.quota_type_id = c.quota_type_id
  RETURNING l.quota_type_id, l.limit_amount, l.used_amount, c.held AS reserved_amount, l.period_start, l.period_end, c.level_before, c.level
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT $1, $5::text::uuid, m.quota_type_id, m.level - m.level_before, $6::text, $7::text::jsonb,
         greatest(date_trunc('milliseconds', now()), m.period_start) FROM moved m
), remembered AS (
  INSERT INTO quota_idempotency_keys (user_id, key, quota_type_id, amount, balance)
  SELECT $1, $8::text, m.quota_type_id, -$3::bigint,
         jsonb_build_object('limit', m.limit_amount, 'used', m.level, 'reserved', m.reserved_amount, 'periodStart', m.period_start, 'resetsAt', m.period_end)
    FROM moved m WHERE $8::text IS NOT NULL
)
SELECT limit_amount, used_amount, reserved_amount, ${ms('period_start')} AS period_start, ${ms('period_end')} AS period_end FROM moved`

export interface LevelMove {
  userId: string
  typeId: number
  type: string
  /** The log row's id. */
  id: string
  /** What was measured (`set`), or what was given back (`credit`). */
  amount: number
  move: 'set' | 'credit'
  endpoint: string | null
  metadata: Metadata
  idempotencyKey: string | null
}

/** More than a user's first sight and deletions in between take together. */
const ATTEMPTS = 20

/** The balance afterwards, also of a user who was never seen. */
export async function setLevel(db: Database, move: LevelMove): Promise<Balance> {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const balance = await trySetLevel(db, move)
    if (balance !== undefined) return balance
    if (attempt > 1) await insistOnTypes(db, [move])
    await ensureUser(db, move.userId, [move.typeId])
  }
  throw new FST_QUOTA_STORE('the user was deleted again each time the counters were opened')
}

/** The balance afterwards; undefined when the user has no such counter yet. */
async function trySetLevel(db: Database, m: LevelMove): Promise<Balance | undefined> {
  const values = [
    m.userId,
    m.typeId,
    String(m.amount),
    m.move === 'set',
    m.id,
    m.endpoint,
    JSON.stringify(m.metadata),
    m.idempotencyKey
  ]
  return await transaction(db, async query => {
    // A counter opened after this would not be locked, and what was held of it meanwhile would be overwritten.
    if ((await query(LOCK, [m.userId, m.typeId])).length === 0) return undefined
    const [row] = await query<CounterRow>(SET_LEVEL, values)
    return row && balanceOf(m.type, row)
  }).catch(error => {
    // What running work holds comes on top of what was measured.
    throw m.move === 'set' && stateOf(error) === '23514' ? withoutRoom('The amount', m.amount) : error
  })
}
