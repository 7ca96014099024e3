// `GET /quotas/me`: a user's own balances, under their own identity. It costs nothing.
import type { FastifyInstance } from 'fastify'
import { FST_QUOTA_INVALID_OPTION, FST_QUOTA_STORE, FST_QUOTA_UNAUTHORIZED } from '../quota/errors.ts'
import { problemAnswer } from '../quota/problem.ts'
import { QUOTA_DOCUMENT_SCHEMA, quotaDocument } from '../quota/quota-document.ts'
import { type Database, within } from '../store/database.ts'
import { Group } from '../store/group/group.ts'
import { type UserQuotas, viewQuotas } from '../store/operator/view-quotas.ts'
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
  if (app.hasRoute({ method: 'GET', url: `${app.prefix}${context.url}` }))
    throw new FST_QUOTA_INVALID_OPTION(
      'self.url',
      `is ${context.url}, which is already declared, perhaps by another registration; choose another path, or set self: false`
    )
  const read = reading(context)
  app.route({
    method: 'GET',
    url: context.url,
    config: { quota: false },
    // The application's own compiler may expect other schemas, such as Zod's, and its serializers and hooks may turn objects into other answers.
    serializerCompiler: () => JSON.stringify,
    schema: {
      summary: "The caller's quotas",
      tags: ['quota'],
      response: {
        200: QUOTA_DOCUMENT_SCHEMA,
        401: problemAnswer('The caller could not be identified.'),
        503: problemAnswer('The quota database is not answering; Retry-After says when to try again.')
      }
    },
    handler: async (request, reply) => {
      try {
        const userId = await identifyUser(request, context.identify)
        const { quotas } = await read(userId)
        return reply
          .header('cache-control', 'no-store')
          .type('application/json; charset=utf-8')
          .send(JSON.stringify(quotaDocument(userId, quotas)))
      } catch (error) {
        if (error instanceof FST_QUOTA_UNAUTHORIZED) return refuseUnauthorized(reply, error, context.asksForToken)
        if (!(error instanceof FST_QUOTA_STORE)) throw error
        request.log.error({ err: error }, 'quota store failed')
        return refuseUnavailable(reply)
      }
    }
  })
}

/**
 * Users ask as often as they like, for free, so each takes one connection at most. A request that comes while the balances are being read shares
 * the next reading, which begins after it came.
 */
function reading({ db, storeTimeoutMs }: { db: Database; storeTimeoutMs: number }) {
  const users = new Map<string, Group<{ userId: string }, UserQuotas, UserQuotas>>()
  const patienceMs = db.kind === 'embedded' ? EMBEDDED_PATIENCE_MS : storeTimeoutMs
  return (userId: string): Promise<UserQuotas> => {
    const group =
      users.get(userId) ??
      new Group<{ userId: string }, UserQuotas, UserQuotas>(
        async items => {
          const quotas = await viewQuotas(within(db, storeTimeoutMs), userId)
          return items.map(() => quotas)
        },
        { size: () => Number.POSITIVE_INFINITY, answer: (_, quotas) => quotas, onIdle: () => users.delete(userId) }
      )
    users.set(userId, group)
    return group.join({ userId }, performance.now() + patienceMs)
  }
}

/** As long as its statements may take. */
const EMBEDDED_PATIENCE_MS = 30_000
