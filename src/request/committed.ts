// What is charged for what was held, as it stood when the charge was asked for.
import { boundMetadata, type Metadata } from '../quota/metadata.ts'
import type { AdmittedCharge } from '../store/charge/admit.ts'
import type { CommittedCharge } from '../store/charge/commit.ts'
import type { ReservedCharge } from './request-quota.ts'

export class Committed implements CommittedCharge {
  readonly id: string
  readonly typeId: number
  readonly type: string
  readonly periodStart: Date
  readonly admittedAt: Date
  readonly amount: number
  readonly heldAmount: number
  readonly metadata: Metadata

  constructor(
    { id, typeId, type, periodStart, admittedAt }: AdmittedCharge,
    { amount, reserved }: ReservedCharge,
    metadata: Metadata
  ) {
    this.id = id
    this.typeId = typeId
    this.type = type
    this.periodStart = periodStart
    this.admittedAt = admittedAt
    this.amount = amount
    this.heldAmount = reserved
    this.metadata = boundMetadata(metadata)
    // It may have gone past the limit: the row says so.
    if (amount > reserved) this.metadata.over_reservation = amount - reserved
  }
}
