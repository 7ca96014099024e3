// What a statement for many users does otherwise than one for a single user.
import { stateOf } from '../database.ts'

/** How long it waits for what somebody else has locked: for longer than statements take that move counters, but for no transaction. */
const LOCK_PATIENCE_MS = 20

/** A CTE that comes before all that locks: whatever is selected FROM it is read once the patience is set. */
export const PATIENCE = `patience AS MATERIALIZED (
  SELECT set_config('lock_timeout', '${LOCK_PATIENCE_MS}', true)
)`

/** By the lock timeout, or by a deadlock: then nothing was done. */
export const isLockedOut = (error: unknown): boolean => /^(55P03|40P01)$/.test(stateOf(error) ?? '')
