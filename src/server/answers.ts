// What the server answers where no handler does: errors and unknown paths, as problem details.
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { FST_QUOTA_UNAUTHORIZED } from '../quota/errors.ts'
import { PROBLEM_JSON, problem } from '../quota/problem.ts'
import { PROBLEM_SCHEMA } from '../quota/quota-document.ts'

/** A denial says more than any other problem: which quota, and what is left of it. */
const DENIAL_SCHEMA = {
  ...PROBLEM_SCHEMA,
  description: 'The quota does not allow it; nothing was charged (RFC 9457).',
  additionalProperties: true
} as const

/** The answers that every route of the API may give besides its own. */
export const REFUSALS = { 400: PROBLEM_SCHEMA, 401: PROBLEM_SCHEMA } as const
/** And those of a metered one. */
export const METERED_REFUSALS = { ...REFUSALS, 402: DENIAL_SCHEMA, 503: PROBLEM_SCHEMA } as const

export function refuse(reply: FastifyReply, status: number, detail: string, code?: string): FastifyReply {
  return reply
    .code(status)
    .type(PROBLEM_JSON)
    .send(problem(status, detail, code === undefined ? {} : { code }))
}

export function addAnswers(app: FastifyInstance, { asksForToken }: { asksForToken: boolean }): void {
  // Fastify's own would log the path, and in a path stand patients' names.
  app.setNotFoundHandler((request, reply) => refuse(reply, 404, `There is no ${request.method} route at this path.`))
  app.setErrorHandler((error: FastifyError, request: FastifyRequest, reply) => {
    if (error instanceof FST_QUOTA_UNAUTHORIZED && asksForToken) reply.header('www-authenticate', 'Bearer')
    const status = error.statusCode ?? 500
    if (status < 500) return refuse(reply, status, error.message, error.code)
    request.log.error({ err: error }, 'request failed')
    return refuse(reply, status, 'Something failed in here; the log has it.')
  })
}
