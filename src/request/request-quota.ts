// `request.quota`: what a handler sees of its charges, and may still say about them.
import { isAmount, shown } from '../quota/amount.ts'
import type { Balance } from '../quota/balance.ts'
import { requireRoom } from '../quota/counter.ts'
import { FST_QUOTA_INVALID_AMOUNT, FST_QUOTA_NOT_RESERVED } from '../quota/errors.ts'
import type { Metadata } from '../quota/metadata.ts'
import type { QuotaTypeKey } from '../quota/rule.ts'
import type { AdmittedCharge } from '../store/charge/admit.ts'

export interface ReservedCharge {
  /** The quota type's key. */
  readonly type: string
  /** What is held for this request. */
  readonly reserved: number
  /** What will be charged: `reserved`, or what `setAmount` said. */
  readonly amount: number
  /** The balance when it was reserved, this request included. */
  readonly balance: Balance
}

/** On a route that is not metered, `userId` is null and `charges` is empty. */
export interface RequestQuota {
  /** Who is charged. */
  readonly userId: string | null
  readonly charges: readonly ReservedCharge[]
  /** Goes into the usage log, at most 8 levels and 4 KiB of JSON. It is up to you to leave out what is personal. */
  metadata: Metadata
  /**
   * What the request really cost, known late: replaces the reserved amount, even with one above it and past the limit. Best called before the reply
   * passes this plugin's `onSend`, or before a stream ends. Later, as in an `onSend` hook of the application or where a client has left a stream,
   * what was charged is amended right after: the log row is written anew, and the reply does not wait for it. Throws FST_QUOTA_INVALID_AMOUNT, also
   * where the counter would pass 2^53−1 with it, and FST_QUOTA_NOT_RESERVED for a type that this route does not charge. Has no effect where nothing
   * is charged, because the reply was not one that is charged, the store failed open or the type is switched off.
   */
  setAmount(type: QuotaTypeKey, amount: number): void
}

class Reserved implements ReservedCharge {
  readonly type: string
  readonly reserved: number
  amount: number
  readonly balance: Balance

  constructor({ type, amount, balance }: AdmittedCharge) {
    this.type = type
    this.reserved = amount
    this.amount = amount
    this.balance = balance
  }
}

export class MeteredQuota implements RequestQuota {
  readonly userId: string
  readonly charges: readonly Reserved[]
  metadata: Metadata = {}
  /** What the rule charges: an amount for a type that an operator has switched off is ignored. */
  readonly #named: readonly { type: string }[]
  /** Is told of a new amount: it may have been decided already what is charged, or what the headers say. */
  readonly #settlement: { amend(): void }

  constructor(
    userId: string,
    admitted: readonly AdmittedCharge[],
    named: readonly { type: string }[],
    settlement: { amend(): void }
  ) {
    this.userId = userId
    this.#named = named
    this.#settlement = settlement
    this.charges = admitted.map(charge => new Reserved(charge))
  }

  setAmount(type: QuotaTypeKey, amount: number): void {
    if (!isAmount(amount)) throw new FST_QUOTA_INVALID_AMOUNT('The amount', shown(amount))
    const charge = this.charges.find(c => c.type === type)
    if (charge === undefined && this.#named.some(named => named.type === type)) return
    if (charge === undefined) throw new FST_QUOTA_NOT_RESERVED(type)
    requireRoom('The amount', amount, charge.balance, charge.reserved)
    charge.amount = amount
    this.#settlement.amend()
  }
}

/** Let through unmetered, because the store failed or every type is switched off: the handler need not know. */
export const unenforcedQuota = (userId: string): RequestQuota => ({
  userId,
  charges: [],
  metadata: {},
  setAmount: () => {}
})

export const unmeteredQuota = (): RequestQuota => ({
  userId: null,
  charges: [],
  metadata: {},
  setAmount: type => {
    throw new FST_QUOTA_NOT_RESERVED(type)
  }
})
