// `GET /quotas/me`: a user's own balances, under their own identity. It costs nothing.
import type { FastifyInstance } from 'fastify'
import { FST_QUOTA_STORE, FST_QUOTA_UNAUTHORIZED } from '../quota/errors.ts'
import { problemAnswer } from '../quota/problem.ts'
import { QUOTA_DOCUMENT_SCHEMA, quotaDocument } from '../quota/quota-document.ts'
import { type Database, within } from '../store/database.ts'
import { viewQuotas } from '../store/view-quotas.ts'
import { type Identify, identifyUser } from './identify.ts'
import { refuseUnauthorized, refuseUnavailable } from './refuse.ts'

export interface SelfOptions {
  /** Default: `/quotas/me`. */
  url?: string
}

export const DEFAULT_SELF_URL = '/quotas/me'

export function addSelfRoute(
  app: FastifyInstance,
  context: { db: Database; identify: Identify; asksForToken: boolean; url: string; storeTimeoutMs: number }
): void {
  app.route({
    method: 'GET',
    url: context.url,
    config: { quota: false },
    schema: {
      summary: 'The quotas of whoever asks',
      tags: ['quota'],
      response: {
        200: QUOTA_DOCUMENT_SCHEMA,
        401: problemAnswer('It is not known who asks.'),
        503: problemAnswer('The quota database does not answer; Retry-After says when to try again.')
      }
    },
    handler: async (request, reply) => {
      try {
        const userId = await identifyUser(request, context.identify)
        const { quotas } = await viewQuotas(within(context.db, context.storeTimeoutMs), userId)
        return reply.header('cache-control', 'no-store').send(quotaDocument(userId, quotas))
      } catch (error) {
        if (error instanceof FST_QUOTA_UNAUTHORIZED) return refuseUnauthorized(reply, error, context.asksForToken)
        if (!(error instanceof FST_QUOTA_STORE)) throw error
        request.log.error({ err: error }, 'quota store failed')
        return refuseUnavailable(reply)
      }
    }
  })
}
