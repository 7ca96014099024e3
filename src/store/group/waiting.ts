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

/** The shared statement refuses 0 where usage is past the limit, although 0 always fits. */
export const isFinal = ({ amount }: Wish, isHeld: boolean): boolean => isHeld || amount > 0

/** What the request is told. */
export function outcomeOf({ charges }: Reserving, row: Held): Admission {
  if (!row.held) return refusalOf(charges[0] as WantedCharge, row)
  const at = dateOf(row.at)
  const admittedAt = row.at < row.period_start ? dateOf(row.period_start) : at
  return new Admitted(
    charges.map(charge => new AdmittedCharge(charge, admittedAt, new CounterBalance(charge.type, row))),
    at
  )
}
