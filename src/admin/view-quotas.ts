// GET /users/:userId: what a user has left.
import type { FastifyInstance } from 'fastify'
import { FST_QUOTA_UNKNOWN_USER } from '../quota/errors.ts'
import { PROBLEM_SCHEMA, QUOTA_DOCUMENT_SCHEMA, quotaDocument } from '../quota/quota-document.ts'
import { viewQuotas } from '../store/view-quotas.ts'
import type { AdminContext } from './context.ts'
import { readUserId } from './input.ts'
import { USER_PARAMS } from './schemas.ts'

export function viewQuotasRoute(admin: FastifyInstance, { db }: AdminContext): void {
  admin.route({
    method: 'GET',
    url: '/users/:userId',
    config: { quota: false },
    schema: {
      summary: "A user's quotas",
      tags: ['quota-admin'],
      params: USER_PARAMS,
      querystring: { type: 'object', additionalProperties: false, properties: {} },
      response: {
        200: QUOTA_DOCUMENT_SCHEMA,
        400: PROBLEM_SCHEMA,
        403: PROBLEM_SCHEMA,
        404: PROBLEM_SCHEMA,
        503: PROBLEM_SCHEMA
      }
    },
    handler: async request => {
      const userId = readUserId(request)
      const { known, quotas } = await viewQuotas(db, userId)
      if (!known) throw new FST_QUOTA_UNKNOWN_USER()
      return quotaDocument(userId, quotas)
    }
  })
}
