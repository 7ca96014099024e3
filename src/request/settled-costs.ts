// What the charges of a request cost and what that leaves, before they are written and afterwards.
import type { Balance } from '../quota/balance.ts'
import type { CommittedCharge } from '../store/charge/commit.ts'
import { type Cost, Projected } from './headers.ts'
import type { ReservedCharge } from './request-quota.ts'

/** `written`: the balances that the last write returned, which include `included`: nothing where it gave back what was held. */
export const settledCosts = (
  charges: readonly ReservedCharge[],
  isCharged: boolean,
  written: Map<string, Balance> | undefined,
  included: readonly CommittedCharge[]
): Cost[] =>
  charges.map(({ type, balance, reserved, amount }) => {
    const cost = isCharged ? amount : 0
    const after = written?.get(type)
    if (after === undefined) return new Projected(balance, reserved, cost, cost)
    // What was held is no longer in it; where the cost has changed since, the difference is added or taken off.
    const before = included.find(charge => charge.type === type)?.amount ?? 0
    return new Projected(after, 0, cost - before, cost)
  })
