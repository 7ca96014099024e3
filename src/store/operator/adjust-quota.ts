// Gives a user another limit. What is used stays used, even where it is more than the new limit.
import type { Balance } from '../../quota/balance.ts'
import { balanceOf, type CounterRow } from '../charge/counter-balance.ts'
import { openCounters } from '../charge/ensure-user.ts'
import { heldOf } from '../charge/held.ts'
import { openPeriods } from '../charge/open-period.ts'
import { type Database, ms, transaction } from '../database.ts'
import { type Actor, auditValues, RECORD_AUDIT } from '../record-audit.ts'

/** A separate statement: what is held is read by the next one, whose snapshot is newer than the lock. */
const LOCK = `
SELECT 1 FROM quota_limits l JOIN quota_types t ON t.id = l.quota_type_id WHERE l.user_id = $1 AND t.type_key = $2 FOR UPDATE OF l`

const ADJUST = `
WITH old AS MATERIALIZED (
  SELECT l.*, t.type_key FROM quota_limits l JOIN quota_types t ON t.id = l.quota_type_id
   WHERE l.user_id = $1 AND t.type_key = $2
     FOR UPDATE OF l
), adjusted AS (
  UPDATE quota_limits l SET limit_amount = $3::bigint, updated_at = now() FROM old o WHERE l.user_id = $1 AND l.quota_type_id = o.quota_type_id
  RETURNING l.limit_amount, l.used_amount, ${heldOf('l')} AS reserved_amount, l.period_start, l.period_end
), audited AS (
  ${RECORD_AUDIT} $1, $4::text, $5::text, $6::text, 'adjust', o.type_key, jsonb_build_object('limit', o.limit_amount), jsonb_build_object('limit', $3::bigint) FROM old o
)
SELECT limit_amount, used_amount, reserved_amount, ${ms('period_start')} AS period_start, ${ms('period_end')} AS period_end FROM adjusted`

/** The balance afterwards; undefined when there is no such user or type. */
export async function adjustQuota(
  db: Database,
  userId: string,
  key: string,
  newLimit: number,
  by: Actor
): Promise<Balance | undefined> {
  await openCounters(db, userId)
  await openPeriods(db, userId)
  const adjust = () =>
    transaction(db, async query => {
      if ((await query(LOCK, [userId, key])).length === 0) return undefined
      return (await query<CounterRow>(ADJUST, [userId, key, String(newLimit), ...auditValues(by)]))[0]
    })
  const row = (await adjust()) ?? (await openSwitchedOff(db, userId, key).then(adjust))
  return row && balanceOf(key, row)
}

/** A type that is switched off is given to no new user, except to one whom an operator names. */
async function openSwitchedOff(db: Database, userId: string, key: string): Promise<void> {
  const types = await db.query<{ id: number }>('SELECT id FROM quota_types WHERE type_key = $1', [key])
  if (types.length > 0)
    await openCounters(
      db,
      userId,
      types.map(type => type.id)
    )
}
