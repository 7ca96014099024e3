// What every admin route works with.
import type { FastifyRequest } from 'fastify'
import type { EventCounts } from '../quota/events.ts'
import type { TypeCatalogue } from '../store/catalogue/type-catalogue.ts'
import type { Database } from '../store/database.ts'
import type { Actor } from '../store/record-audit.ts'
import { readReason } from './input.ts'

export interface AdminContext {
  db: Database
  types: TypeCatalogue
  /** What happened in this process, and how many settlements wait to be written. */
  counts(): EventCounts & { pending: number }
  /** Must be called when a user, or any of them, may have room again. */
  changed(userId?: string): void
  /** Writes the denials that this process has counted and not written yet; what cannot be written is logged, and kept for later. */
  flushDenials(): Promise<void>
  /** Drops those of a user who was deleted: they would be counted to whoever comes back under this id. */
  forgetDenials(userId: string): void
  /** Statistics over this many of the time zone's days are asked for: they should be kept at hand. */
  wantStatistics(timeZone: string, days: number): void
}

/** Where the actor that `authorize` named is kept on a request; empty before, and for those who may see no more than the bare health. */
export const ACTOR = Symbol('fastify-quota.actor')

export const actorName = (request: FastifyRequest): string => (request as unknown as { [ACTOR]: string })[ACTOR]

/** Who asks for a change, and why. */
export const actorOf = (request: FastifyRequest): Actor => ({
  actor: actorName(request),
  reason: readReason(request) ?? null,
  // There may be none where `genReqId` takes it from a header.
  requestId: request.id ?? null
})
