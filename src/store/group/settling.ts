// The ways to settle what a request reserved, one request at a time.
import type { Balance } from '../../quota/balance.ts'
import { amend } from '../charge/amend.ts'
import { type CommittedCharge, commit, type HeldCharge } from '../charge/commit.ts'
import { release } from '../charge/release.ts'
import { voidCharges } from '../charge/void.ts'
import type { Database } from '../database.ts'

/** Each may be called twice, with the effect of once. */
export interface Settling {
  commit(userId: string, charges: readonly CommittedCharge[], endpoint: string | null): Promise<Map<string, Balance>>
  release(userId: string, charges: readonly HeldCharge[]): Promise<Map<string, Balance>>
  voidCharges(userId: string, charges: readonly HeldCharge[]): Promise<void>
  amend(userId: string, charges: readonly CommittedCharge[]): Promise<Map<string, Balance>>
}

/** Settles one request at a time. */
export const settlingOn = (db: Database): Settling => ({
  commit: (...given) => commit(db, ...given),
  release: (...given) => release(db, ...given),
  voidCharges: (...given) => voidCharges(db, ...given),
  amend: (...given) => amend(db, ...given)
})
