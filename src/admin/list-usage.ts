// GET /usage-logs: what was charged, newest first.
import type { FastifyInstance } from 'fastify'
import { PROBLEM_SCHEMA } from '../quota/quota-document.ts'
import { listUsage, type UsageEntry, type UsagePosition } from '../store/list-usage.ts'
import type { AdminContext } from './context.ts'
import { readCount, readInstant, readText, readUserFilter, refuse } from './input.ts'

const QUERY = {
  type: 'object',
  additionalProperties: false,
  properties: {
    user_id: { type: 'string', description: 'Of this user only.' },
    quota_type: { type: 'string', description: 'Of this quota type only; 404 when there is none.' },
    endpoint: { type: 'string', description: 'Of this declared route only.' },
    start_date: { type: 'string', description: 'From this ISO 8601 day or instant on.' },
    end_date: { type: 'string', description: 'Until this ISO 8601 instant; a day is included whole.' },
    limit: { type: 'string', description: 'How many, 1 to 1000. Default: 100.' },
    cursor: { type: 'string', description: 'next_cursor of the page before.' },
    offset: {
      type: 'string',
      description: 'How many to leave out, for old scripts; a cursor is faster. Not with a cursor.'
    }
  }
} as const

const ANSWER = {
  type: 'object',
  required: ['usage_logs', 'next_cursor'],
  properties: {
    usage_logs: {
      type: 'array',
      items: {
        type: 'object',
        required: ['id', 'user_id', 'quota_type', 'amount', 'endpoint', 'metadata', 'created_at'],
        properties: {
          id: { type: 'string', format: 'uuid' },
          user_id: { type: 'string' },
          quota_type: { type: 'string' },
          amount: { type: 'integer', description: 'What was charged; negative where a level was credited.' },
          endpoint: { type: ['string', 'null'] },
          metadata: { type: 'object', additionalProperties: true },
          created_at: { type: 'string', format: 'date-time' }
        }
      }
    },
    next_cursor: { type: ['string', 'null'], description: 'For the next page; null: there is none.' }
  }
} as const

export function listUsageRoute(admin: FastifyInstance, { db, types }: AdminContext): void {
  admin.route({
    method: 'GET',
    url: '/usage-logs',
    config: { quota: false },
    schema: {
      summary: 'The usage log',
      tags: ['quota-admin'],
      querystring: QUERY,
      response: { 200: ANSWER, 400: PROBLEM_SCHEMA, 403: PROBLEM_SCHEMA, 404: PROBLEM_SCHEMA, 503: PROBLEM_SCHEMA }
    },
    handler: async request => {
      const query = request.query as Record<string, string | undefined>
      const limit = readCount(query, 'limit', 1, 1000, 100)
      const offset = readCount(query, 'offset', 0, 10 ** 12, 0)
      if (query.cursor !== undefined && query.offset !== undefined)
        throw refuse('offset', 'cannot be combined with cursor')
      const from = readInstant(query, 'start_date')
      const until = endOf(query)
      if (from && until && until <= from) throw refuse('end_date', 'must be later than start_date')
      if (query.quota_type !== undefined) await types.get(query.quota_type, 'named in the query')
      const filter = {
        userId: readUserFilter(query, 'user_id'),
        quotaType: query.quota_type,
        endpoint: readText(request, 'endpoint'),
        from,
        until
      }
      const rows = await listUsage(db, filter, { limit: limit + 1, offset, after: readCursor(query.cursor) })
      const page = rows.slice(0, limit)
      return {
        usage_logs: page.map(row),
        next_cursor: rows.length > limit ? cursorOf(page.at(-1) as UsageEntry) : null
      }
    }
  })
}

/** A day that is named as the end is meant whole. */
function endOf(query: Record<string, string | undefined>): Date | undefined {
  const end = readInstant(query, 'end_date')
  return end && query.end_date?.length === 10 ? new Date(end.getTime() + 86_400_000) : end
}

const row = ({ id, userId, quotaType, amount, endpoint, metadata, createdAt }: UsageEntry) => ({
  id,
  user_id: userId,
  quota_type: quotaType,
  amount,
  endpoint,
  metadata,
  created_at: createdAt.toISOString()
})

const cursorOf = ({ createdAt, id }: UsagePosition): string =>
  Buffer.from(`${createdAt.getTime()}.${id}`).toString('base64url')

function readCursor(cursor: string | undefined): UsagePosition | undefined {
  if (cursor === undefined) return undefined
  const [, time, id] = /^([0-9]{1,15})\.([0-9a-f-]{36})$/.exec(Buffer.from(cursor, 'base64url').toString()) ?? []
  if (time === undefined || id === undefined || cursorOf({ createdAt: new Date(Number(time)), id }) !== cursor)
    throw refuse('cursor', 'must be the next_cursor of an earlier page')
  return { createdAt: new Date(Number(time)), id }
}
