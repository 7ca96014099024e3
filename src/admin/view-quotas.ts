// GET /users/:userId: what a user has left.
import type { FastifyInstance } from 'fastify'
import { FST_QUOTA_UNKNOWN_USER } from '../quota/errors.ts'
import { QUOTA_DOCUMENT_SCHEMA, quotaDocument } from '../quota/quota-document.ts'
import { viewQuotas } from '../store/operator/view-quotas.ts'
import type { AdminContext } from './context.ts'
import { readUserId } from './input.ts'
import { query, refusals, USER_PARAMS } from './schemas.ts'

export function viewQuotasRoute(admin: FastifyInstance, { db }: AdminContext): void {
  admin.route({
    method: 'GET',
    url: '/users/:userId',
    schema: {
      operationId: 'viewUserQuotas',
      summary: "A user's quotas",
      params: USER_PARAMS,
      querystring: query({}),
      response: { ...refusals(404, 414), 200: QUOTA_DOCUMENT_SCHEMA }
    },
    handler: async request => {
      const userId = readUserId(request)
      const { known, quotas } = await viewQuotas(db, userId)
      if (!known) throw new FST_QUOTA_UNKNOWN_USER()
      return quotaDocument(userId, quotas)
    }
  })
}
