// What the end of a request needs of the other rooms, and of its own.
import type { FastifyBaseLogger } from 'fastify'
import type { Emit } from '../quota/events.ts'
import type { Database } from '../store/database.ts'
import type { Reservations } from '../store/group/reservations.ts'
import type { DenialMemory } from './denial-memory.ts'
import type { Holds } from './holds.ts'
import type { Owed } from './owed.ts'

/** Held by running work, and renewed until then; the rest is for whoever renews it. */
interface Renewed {
  readonly userId: string
  readonly charges: readonly { readonly id: string }[]
  renewAt: number
  renewUntil: number
  livePlace: number
}

export interface SettleContext {
  db: Database
  /** For what a request waits for; what takes longer is written later. */
  store: Reservations
  owed: Owed
  holds: Holds
  emit: Emit<FastifyBaseLogger>
  denials: DenialMemory
  /** How long the handler of a client that has left is held for. */
  patienceMs: number
  /** What living requests hold, and must be kept from expiring. */
  live: { join(held: Renewed): void; leave(held: Renewed): void }
}
