// Whether a failed statement did nothing, because of what it was given.
import { FST_QUOTA_STORE } from '../../quota/errors.ts'
import { stateOf } from '../database.ts'

/** The database answered that it did none of it because of a value (22…), a constraint (23…) or a conflict (40…). */
export const isRefused = (error: unknown): boolean =>
  error instanceof FST_QUOTA_STORE && /^(22|23|40)/.test(stateOf(error) ?? '')
