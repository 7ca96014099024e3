// What a request asks for while it waits for a statement that it shares, and what the answer means to it.
import type { Metadata } from '../../quota/metadata.ts'
import { type Admission, Admitted, AdmittedCharge, refusalOf, type WantedCharge } from '../charge/admit.ts'
import type { CommittedCharge } from '../charge/commit.ts'
import { CounterBalance } from '../charge/counter-balance.ts'
import { dateOf } from '../database.ts'
import type { Charge } from './charge-many.ts'
import type { Held, Wish } from './wishes.ts'

/** What waits for a shared statement, with what to ask for where that leaves it unanswered. */
export class Reserving implements Wish {
  readonly userId: string
  readonly id: string
  readonly typeId: number
  readonly amount: number
  readonly leaseMs: number
  /** Always exactly one. */
  readonly charges: readonly WantedCharge[]
  /** It has waited for its counter to be opened. */
  wasOpened = false

  constructor(userId: string, charges: readonly WantedCharge[], leaseMs: number) {
    const { id, typeId, amount } = charges[0] as WantedCharge
    this.userId = userId
    this.id = id
    this.typeId = typeId
    this.amount = amount
    this.leaseMs = leaseMs
    this.charges = charges
  }
}

/** The same for a request with several charges, which are held all or none. */
export class ReservingSeveral {
  readonly userId: string
  readonly charges: readonly WantedCharge[]
  readonly leaseMs: number
  wasOpened = false

  constructor(userId: string, charges: readonly WantedCharge[], leaseMs: number) {
    this.userId = userId
    this.charges = charges
    this.leaseMs = leaseMs
  }
}

export class Committing implements Charge {
  readonly userId: string
  readonly id: string
  readonly amount: number
  readonly endpoint: string | null
  readonly metadata: Metadata
  readonly charge: CommittedCharge

  constructor(userId: string, charge: CommittedCharge, endpoint: string | null) {
    this.userId = userId
    this.id = charge.id
    this.amount = charge.amount
    this.endpoint = endpoint
    this.metadata = charge.metadata
    this.charge = charge
  }
}

/** The same for a request with several charges, which are charged all or none. */
export class CommittingSeveral {
  readonly userId: string
  readonly committed: readonly CommittedCharge[]
  readonly charges: readonly Charge[]
  readonly endpoint: string | null

  constructor(userId: string, committed: readonly CommittedCharge[], endpoint: string | null) {
    this.userId = userId
    this.committed = committed
    this.charges = committed.map(({ id, amount, metadata }) => ({ userId, id, amount, endpoint, metadata }))
    this.endpoint = endpoint
  }
}

/** The shared statement refuses 0 where usage is past the limit, although 0 always fits. */
export const isFinal = ({ amount }: Pick<Wish, 'amount'>, isHeld: boolean): boolean => isHeld || amount > 0

/** What the request is told. */
export const outcomeOf = ({ charges }: Pick<Reserving, 'charges'>, row: Held): Admission =>
  row.held ? admittedBy(charges, [row]) : refusalOf(charges[0] as WantedCharge, row)

/** Of a request whose charges are held, each of the counter whose row is at its place. */
export function admittedBy(charges: readonly WantedCharge[], rows: readonly Held[]): Admitted {
  const held = charges.map((charge, i) => {
    const row = rows[i] as Held
    const admittedAt = dateOf(Math.max(row.at, row.period_start))
    return new AdmittedCharge(charge, admittedAt, new CounterBalance(charge.type, row))
  })
  return new Admitted(held, dateOf((rows[0] as Held).at))
}
