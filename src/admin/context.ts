// What every admin route works with.
import type { FastifyRequest } from 'fastify'
import type { Database } from '../store/database.ts'
import type { Actor } from '../store/record-audit.ts'
import type { TypeCatalogue } from '../store/type-catalogue.ts'
import { readText } from './input.ts'

export interface AdminContext {
  db: Database
  types: TypeCatalogue
}

/** Where the actor that `authorize` named is kept on a request. */
export const ACTOR = Symbol('fastify-quota.actor')

/** Who asks for a change, and why. */
export const actorOf = (request: FastifyRequest): Actor => ({
  actor: (request as unknown as { [ACTOR]: string })[ACTOR],
  reason: readText(request, 'reason') ?? null,
  requestId: request.id
})
