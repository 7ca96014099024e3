// Charges at once, holding nothing before: grouped where it is simple, one user at a time where it is not, and then one by one.
import type { Admission, WantedCharge } from '../charge/admit.ts'
import { type ChargeOrder, charge } from '../charge/charge.ts'
import { recallCharge } from '../charge/recall-charge.ts'
import { ByCounter, type SharedLane } from './by-counter.ts'
import { type Outlay, Spending, type Spent } from './charge-at-once.ts'
import { KeyTurns } from './key-turns.ts'
import type { Context } from './several.ts'
import { isFinal, outcomeOf } from './waiting.ts'

/** What waits for a shared statement, with what to ask for where that leaves it unanswered. */
class Charging implements Outlay {
  readonly userId: string
  readonly id: string
  readonly typeId: number
  readonly amount: number
  readonly endpoint: string | null
  readonly metadata: ChargeOrder['metadata']
  readonly idempotencyKey: string | null
  /** Always exactly one. */
  readonly charges: readonly WantedCharge[]
  readonly order: ChargeOrder
  /** It has waited for its counter to be opened. */
  wasOpened = false

  constructor(order: ChargeOrder) {
    const { id, typeId, amount } = order.charges[0] as WantedCharge
    this.userId = order.userId
    this.id = id
    this.typeId = typeId
    this.amount = amount
    this.endpoint = order.endpoint
    this.metadata = order.metadata
    this.idempotencyKey = order.idempotencyKey
    this.charges = order.charges
    this.order = order
  }
}

const isOpen = (_: Outlay, spent: Pick<Spent, 'done' | 'full' | 'known'> | undefined): boolean =>
  !(spent?.done || spent?.full || spent?.known)

export class Outlays {
  readonly #context: Context
  readonly #byCounter: ByCounter<Outlay, Spent>
  readonly #keys = new KeyTurns<Admission>(({ admitted }) => admitted)

  /** `lane`: where statements may touch many users, how they are sent. */
  constructor(context: Context, lane: SharedLane | undefined) {
    this.#context = context
    const { ofMany, ofOne } = new Spending(context.heldSince)
    this.#byCounter = new ByCounter(context.asking, { ofMany, ofOne, isOpen }, lane)
  }

  /** How many that are charged together have no answer yet. */
  get load(): number {
    return this.#byCounter.load
  }

  /** Undefined: the idempotency key is known. */
  async charge(order: ChargeOrder): Promise<Admission | undefined> {
    const { asking, openings } = this.#context
    const deadline = asking.deadline()
    const { userId, idempotencyKey } = order
    // It gains nothing by sharing.
    if (asking.db.kind !== 'postgres') {
      const db = asking.until(deadline)
      const isKnown = idempotencyKey !== null && (await recallCharge(db, userId, idempotencyKey)) !== undefined
      return isKnown ? undefined : await charge(db, order)
    }
    const wish = new Charging(order)
    return await this.#keys.after(userId, idempotencyKey, () =>
      openings.behind(wish, deadline, isOpened => this.#charge(wish, deadline, isOpened))
    )
  }

  async #charge(wish: Charging, deadline: number, isOpened: boolean): Promise<Admission | undefined> {
    const { asking, openings } = this.#context
    const mayShare = isOpened && this.#byCounter.mayShare(wish.userId)
    const shared = mayShare ? await this.#byCounter.together(wish, deadline) : undefined
    if (mayShare && (shared === undefined || shared.ended))
      return await openings.before(wish, deadline, isOpened => this.#charge(wish, deadline, isOpened))
    const spent = isOpen(wish, shared) ? await this.#byCounter.alone(wish, deadline) : shared
    if (spent?.known) return undefined
    if (spent?.done || (spent?.full && isFinal(wish, false))) return outcomeOf(wish, { ...spent, held: spent.done })
    return await charge(asking.until(deadline), wish.order)
  }
}
