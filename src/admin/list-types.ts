// GET /quota-types: lists the quota types.
import type { FastifyInstance } from 'fastify'
import { listTypes } from '../store/catalogue/list-types.ts'
import type { AdminContext } from './context.ts'
import { query, refusals } from './schemas.ts'
import { TYPE_ENTRY, typeEntry } from './type-entry.ts'

const ANSWER = {
  type: 'object',
  description: 'Every quota type.',
  required: ['quota_types'],
  properties: { quota_types: { type: 'array', description: 'All of them, in order of their keys.', items: TYPE_ENTRY } }
} as const

export function listTypesRoute(admin: FastifyInstance, { db }: AdminContext): void {
  admin.route({
    method: 'GET',
    url: '/quota-types',
    schema: {
      operationId: 'listQuotaTypes',
      summary: 'The quota types',
      querystring: query({}),
      response: { ...refusals(), 200: ANSWER }
    },
    handler: async () => ({ quota_types: (await listTypes(db)).map(typeEntry) })
  })
}
