// How a request is refused before its handler runs: 401, 402 (or what was configured) and 503, as problem details. They are sent as
// text: a response schema of the route, meant for its own answers, would strip what it does not know.
import type { FastifyReply } from 'fastify'
import { type DenialOptions, mergeDenial } from '../quota/denial.ts'
import type { FST_QUOTA_UNAUTHORIZED } from '../quota/errors.ts'
import { PROBLEM_JSON, problem, quotaExceeded, retryAfter, STORE_RETRY_SECONDS } from '../quota/problem.ts'
import type { Admission } from '../store/charge/admit.ts'
import { type QuotaHeaders, quotaHeaders } from './headers.ts'

export function refuseUnauthorized(
  reply: FastifyReply,
  error: InstanceType<typeof FST_QUOTA_UNAUTHORIZED>,
  challenge: boolean
): FastifyReply {
  if (challenge) reply.header('www-authenticate', 'Bearer')
  return reply
    .code(401)
    .type(PROBLEM_JSON)
    .send(JSON.stringify(problem(401, error.code, error.message)))
}

/** A denial as it is answered. */
export interface DeniedAnswer {
  statusCode: number
  headers: QuotaHeaders
  body: string
}

/** `X-Quota-*` describe what said no, the IETF fields all that was asked for. */
export function deniedAnswer(
  { violations, balances, at }: Admission & { admitted: false },
  denials: readonly (DenialOptions | undefined)[]
): DeniedAnswer {
  const { statusCode, upgradeUrl } = mergeDenial(...denials)
  const costs = balances.map(balance => ({ ...balance, cost: 0 }))
  const violated = costs.filter(cost => violations.some(violation => violation.type === cost.type))
  const headers: QuotaHeaders = { 'content-type': PROBLEM_JSON, ...quotaHeaders(costs, at.getTime(), violated) }
  const seconds = retryAfter(violations)
  if (seconds !== undefined) headers['retry-after'] = seconds
  return { statusCode, headers, body: JSON.stringify(quotaExceeded(violations, statusCode, upgradeUrl)) }
}

export const sendDenied = (reply: FastifyReply, { statusCode, headers, body }: DeniedAnswer): FastifyReply =>
  reply.code(statusCode).headers(headers).send(body)

/** Says nothing about the store: the cause is in the log. */
export const refuseUnavailable = (reply: FastifyReply): FastifyReply =>
  reply
    .code(503)
    .type(PROBLEM_JSON)
    .header('retry-after', STORE_RETRY_SECONDS)
    .send(
      JSON.stringify(
        problem(
          503,
          'FST_QUOTA_STORE',
          'Quotas cannot be checked at the moment; nothing was charged. Please try again.'
        )
      )
    )
