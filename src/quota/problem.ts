// What a refusal says: problem details (RFC 9457), with the type that the IETF RateLimit draft registers.
import { STATUS_CODES } from 'node:http'
import type { Violation } from './errors.ts'

export const PROBLEM_JSON = 'application/problem+json; charset=utf-8'

/** For how many seconds a client should leave a failing store alone: the `Retry-After` of a 503. */
export const STORE_RETRY_SECONDS = 2

export interface Problem {
  type: string
  title: string
  status: number
  detail: string
  /** Which error it is, for programs. */
  code: string
  [extension: string]: unknown
}

/** The body of a denial. `violated-policies` names every violated quota; the other members describe the first. */
export function quotaExceeded(violations: readonly Violation[], status: number, upgradeUrl: string | null): Problem {
  const [first] = violations as [Violation]
  return {
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    title: 'Quota exceeded',
    status,
    detail:
      first.limit < 0
        ? `This needs ${first.required} of '${first.type}', which has no limit but cannot count past 2^53−1.`
        : `This needs ${first.required} of '${first.type}', and ${first.remaining} of ${first.limit} are left.`,
    code: 'FST_QUOTA_EXCEEDED',
    'violated-policies': violations.map(v => v.type),
    quota_type: first.type,
    limit: first.limit,
    used: first.used,
    reserved: first.reserved,
    remaining: first.remaining,
    required: first.required,
    resets_at: first.resetsAt?.toISOString() ?? null,
    ...(upgradeUrl === null ? {} : { upgrade_url: upgradeUrl })
  }
}

/** Any other refusal: the status tells people all there is to say (`about:blank`), `code` tells programs. */
export const problem = (
  status: number,
  code: string,
  detail: string,
  members: Record<string, unknown> = {}
): Problem => ({
  type: 'about:blank',
  title: STATUS_CODES[status] ?? 'Error',
  status,
  detail,
  code,
  ...members
})

/** How many seconds to wait, where that helps every violated quota: its period ends, and the amount fits into an empty one. */
export function retryAfter(violations: readonly Violation[]): number | undefined {
  if (violations.some(v => v.retryAfter === null || (v.limit >= 0 && v.required > v.limit))) return undefined
  return Math.max(...violations.map(v => v.retryAfter ?? 0), 1)
}

const PROBLEM_SCHEMA = {
  type: 'object',
  description: 'Problem details (RFC 9457).',
  required: ['type', 'title', 'status', 'detail', 'code'],
  properties: {
    type: { type: 'string' },
    title: { type: 'string' },
    status: { type: 'integer' },
    detail: { type: 'string', description: 'What is wrong, and what is accepted instead.' },
    code: { type: 'string', description: 'The error code, for programs: FST_QUOTA_…, or FST_ERR_… from Fastify.' },
    field: { type: 'string', description: 'The part of the request that is wrong.' }
  }
} as const

/** A denial says more than any other problem: which quotas said no, and how the first of them stands. */
const DENIAL_SCHEMA = {
  ...PROBLEM_SCHEMA,
  properties: {
    ...PROBLEM_SCHEMA.properties,
    'violated-policies': {
      type: 'array',
      items: { type: 'string' },
      description: 'Every quota type that denied the request.'
    },
    quota_type: { type: 'string', description: 'The first of them; the fields below describe it.' },
    limit: { type: 'integer' },
    used: { type: 'integer' },
    reserved: { type: 'integer' },
    remaining: { type: 'integer' },
    required: { type: 'integer', description: 'What the request needed.' },
    resets_at: {
      type: ['string', 'null'],
      format: 'date-time',
      description: 'When its period ends; null if it never does.'
    },
    upgrade_url: { type: 'string' }
  }
} as const

const answer = (description: string, schema: object) => ({
  description,
  content: { 'application/problem+json': { schema } }
})

/** How a route's schema declares a problem that it may answer: under the media type that it is sent with. */
export const problemAnswer = (description: string) => answer(description, PROBLEM_SCHEMA)

export const denialAnswer = (description: string) => answer(description, DENIAL_SCHEMA)
