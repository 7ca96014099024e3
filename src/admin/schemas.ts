// The parts that several of the admin routes' schemas share. They are what OpenAPI shows: there a number in a query is an integer, with the
// bounds that `input.ts` reads it by.
import { problemAnswer } from '../quota/problem.ts'

export const USER_PARAMS = {
  type: 'object',
  required: ['userId'],
  properties: {
    userId: {
      type: 'string',
      description: 'The user id, percent-encoded: 1–255 characters, no control characters.',
      examples: ['alice']
    }
  }
} as const

export const TYPE_EXAMPLE = 'api_calls_l3_detect'

export const QUOTA_TYPE_FIELD = {
  type: 'string',
  description: "A quota type's key.",
  examples: [TYPE_EXAMPLE]
} as const

export const REASON_FIELD = {
  type: 'string',
  description: 'Why, for the audit log: a text of 1 to 1000 characters.',
  examples: ['ticket 4711']
} as const

export const SPAN_FIELDS = {
  start_date: {
    type: 'string',
    description: 'From this ISO 8601 day or instant on; in UTC where it has no offset.',
    examples: ['2026-01-01']
  },
  end_date: {
    type: 'string',
    description:
      'Until this ISO 8601 instant, which is not included; a day is included whole. In UTC where it has no offset.',
    examples: ['2099-12-31']
  }
} as const

export const PAGE_FIELDS = {
  limit: { type: 'integer', minimum: 1, maximum: 1000, default: 100, description: 'How many, at most.' },
  cursor: { type: 'string', description: 'next_cursor of the page before, with the same filters.' },
  offset: {
    type: 'integer',
    minimum: 0,
    maximum: 10 ** 12,
    default: 0,
    description: 'How many to leave out, for old scripts; a cursor is faster, and is not combined with it.'
  }
} as const

export const NEXT_CURSOR = {
  type: ['string', 'null'],
  description: 'Give it as cursor for the next page; null: there is none.'
} as const

export const TIME = { type: 'string', format: 'date-time' } as const

/** A query has these parameters and no others. */
export const query = <P extends object>(properties: P) =>
  ({ type: 'object', additionalProperties: false, properties }) as const

export const body = <P extends object>(properties: P) =>
  ({ type: 'object', additionalProperties: false, properties }) as const

/** A JSON body may be left out where everything may be in the query. */
export const optionalBody = <P extends object>(properties: P) =>
  ({ type: ['object', 'null'], additionalProperties: false, properties }) as const

const REFUSALS: Readonly<Record<number, string>> = {
  400: 'The request is malformed: `field` says where, and `detail` what is accepted.',
  403: 'No valid admin token.',
  404: 'There is no such user, or no such quota type.',
  409: 'It contradicts what is there, or a constraint or a trigger of the database refuses it.',
  413: 'The body is larger than 1 MiB, or than what the application allows.',
  414: 'The id in the path is longer than the router of the application takes (`maxParamLength`).',
  415: 'The body is not sent as application/json.',
  422: 'The amount makes no sense.',
  429: 'Too many wrong tokens from this address, or too many exports at once; Retry-After says when to try again.',
  500: 'Something failed; the log has it.',
  503: 'The quota database does not answer; Retry-After says when to try again. Look whether a change was made before.'
}

/** How Fastify itself answers before there is a route, unless the application has `frameworkErrors`. */
const FASTIFY_ERROR = {
  type: 'object',
  required: ['code', 'error', 'message', 'statusCode'],
  properties: {
    statusCode: { type: 'integer' },
    code: { type: 'string' },
    error: { type: 'string' },
    message: { type: 'string' }
  }
} as const

function refusal(status: number) {
  const answer = problemAnswer(REFUSALS[status] as string)
  if (status !== 414) return answer
  return { ...answer, content: { ...answer.content, 'application/json': { schema: FASTIFY_ERROR } } }
}

/** Every route may refuse with these, and with those in `more`. */
export const refusals = (...more: number[]) =>
  Object.fromEntries([400, 403, 429, 500, 503, ...more].map(status => [status, refusal(status)]))

/** What a route that changes something may also refuse with; each has an id in its path. */
export const CHANGE_REFUSALS = [404, 409, 413, 414, 415] as const
