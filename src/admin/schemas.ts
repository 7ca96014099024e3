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
  description: 'The reason, for the audit log: a string of 1 to 1000 characters.',
  examples: ['ticket 4711']
} as const

export const SPAN_FIELDS = {
  start_date: {
    type: 'string',
    description: 'From this ISO 8601 day or instant on; UTC if it has no offset.',
    examples: ['2026-01-01']
  },
  end_date: {
    type: 'string',
    description: 'Up to this ISO 8601 instant, exclusive; a day is included in full. UTC if it has no offset.',
    examples: ['2099-12-31']
  }
} as const

export const PAGE_FIELDS = {
  limit: {
    type: 'integer',
    minimum: 1,
    maximum: 1000,
    default: 100,
    description: 'The largest number of entries to return.'
  },
  cursor: { type: 'string', description: 'The next_cursor of the previous page, with the same filters.' },
  offset: {
    type: 'integer',
    minimum: 0,
    maximum: 10 ** 12,
    default: 0,
    description: 'The number of entries to skip, for old scripts; a cursor is faster, and cannot be combined with it.'
  }
} as const

export const NEXT_CURSOR = {
  type: ['string', 'null'],
  description: 'Pass it as cursor to get the next page; null on the last page.'
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
  403: "There is no valid admin token, or the application's `authorize` refuses.",
  404: 'There is no such user, or no such quota type.',
  409: 'The change conflicts with what exists, or a constraint or trigger in the database rejects it.',
  413: 'The body is larger than 1 MiB, or than the application allows.',
  414: "The id in the path is longer than the application's router allows (`maxParamLength`).",
  415: 'The body is not sent as application/json.',
  422: 'The limit is not one that can be set.',
  429: 'Too many wrong attempts from this address, or too many exports at once; Retry-After says when to try again.',
  500: 'Internal error; the server log has the details.',
  503: 'The quota database is not answering; Retry-After says when to try again. First check whether a change was made.'
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
