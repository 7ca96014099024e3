// What the end of a request needs from the other rooms, and from its own.
import type { FastifyBaseLogger } from 'fastify'
import type { Emit } from '../quota/events.ts'
import type { Database } from '../store/database.ts'
import type { Reservations } from '../store/group/reservations.ts'
import type { DenialMemory } from './denial-memory.ts'
import type { Holds } from './holds.ts'
import type { Owed } from './owed.ts'

/** Held by running work, and renewed until that ends; the fields that change are for whoever renews it. */
export interface Renewed {
  readonly userId: string
  readonly charges: readonly { readonly id: string }[]
  renewAt: number
  renewUntil: number
  livePlace: number
}

export interface SettleContext {
  db: Database
  /** For writes that a request waits for; one that takes longer is written later. */
  store: Reservations
  owed: Owed
  holds: Holds
  emit: Emit<FastifyBaseLogger>
  denials: DenialMemory
  /** How long a reservation is held once its client has left. */
  patienceMs: number
  /** What live requests hold, which must be kept from expiring. */
  live: { join(held: Renewed): void; leave(held: Renewed): void }
}
