// What the server answers where no handler does: errors and unknown paths, as problem details.
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { FST_QUOTA_FAILED, FST_QUOTA_UNAUTHORIZED, FST_QUOTA_UNKNOWN_PATH } from '../quota/errors.ts'
import { denialAnswer, PROBLEM_JSON, problem, problemAnswer } from '../quota/problem.ts'

/** The answers that every route of the API may give besides its own. */
export const REFUSALS = {
  400: problemAnswer('The request is malformed.'),
  401: problemAnswer('The caller could not be identified.')
} as const
/** And those of a route with a parameter in its path. */
export const PATH_REFUSALS = { 414: problemAnswer('The URL is too long.') } as const

const METERED_REFUSALS = {
  402: denialAnswer('The quota does not allow the request; nothing was charged.'),
  503: problemAnswer('Quotas cannot be checked at the moment; nothing was charged. Retry-After says when to try again.')
} as const

/** And those of a metered route, unless nothing is metered. */
export const meteredRefusals = (isQuotaEnabled: boolean) => ({
  ...REFUSALS,
  ...(isQuotaEnabled ? METERED_REFUSALS : {})
})

export function refuse(
  reply: FastifyReply,
  status: number,
  code: string,
  detail: string,
  members: Record<string, unknown> = {}
): FastifyReply {
  return reply
    .code(status)
    .type(PROBLEM_JSON)
    .send(problem(status, code, detail, members))
}

export function addAnswers(app: FastifyInstance, { asksForToken }: { asksForToken: boolean }): void {
  // Fastify's own handler would log the path, which may contain patients' names.
  app.setNotFoundHandler((request, reply) => {
    const { code, message } = new FST_QUOTA_UNKNOWN_PATH(request.method)
    return refuse(reply, 404, code, message)
  })
  app.setErrorHandler((error: FastifyError, request: FastifyRequest, reply) => {
    if (error instanceof FST_QUOTA_UNAUTHORIZED && asksForToken) reply.header('www-authenticate', 'Bearer')
    const status = error.statusCode ?? 500
    if (status < 500) return refuse(reply, status, error.code, error.message)
    request.log.error({ err: error }, 'request failed')
    const { code, message } = new FST_QUOTA_FAILED()
    return refuse(reply, status, code, message)
  })
}
