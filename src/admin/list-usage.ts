// GET /usage-logs: what was charged, newest first; a page of it, or all of it as a file.
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { exportUsage, listUsage, type UsageFilter } from '../store/operator/list-usage.ts'
import type { AdminContext } from './context.ts'
import { ExportSlots, sendExport } from './export-usage.ts'
import { queryOf, readChoice, readSpan, readText, readUserFilter } from './input.ts'
import { byTime, nextCursor, readPage, shown } from './page.ts'
import { NEXT_CURSOR, PAGE_FIELDS, QUOTA_TYPE_FIELD, query, refusals, SPAN_FIELDS } from './schemas.ts'
import { USAGE_ENTRY, usageEntry } from './usage-entry.ts'

const FORMAT = {
  type: 'string',
  enum: ['json', 'csv', 'ndjson'],
  default: 'json',
  description: 'json: a page. csv (RFC 4180) and ndjson: everything that matches, streamed, unless a limit is given.'
} as const

/** What a call of app.quota may name. */
const MAX_ENDPOINT_LENGTH = 2048

const QUERY = query({
  user_id: { type: 'string', description: 'Only rows of this user.', examples: ['alice'] },
  quota_type: { ...QUOTA_TYPE_FIELD, description: 'Only rows of this quota type; 404 if it does not exist.' },
  endpoint: {
    type: 'string',
    description: 'Only rows of this endpoint, such as a declared route.',
    examples: ['/l3_detect/:patient/:date']
  },
  ...SPAN_FIELDS,
  ...PAGE_FIELDS,
  format: FORMAT
})

const ANSWER = {
  type: 'object',
  required: ['usage_logs', 'next_cursor'],
  properties: { usage_logs: { type: 'array', items: USAGE_ENTRY }, next_cursor: NEXT_CURSOR }
} as const

const CURSOR = byTime('usage-logs')

export function listUsageRoute(admin: FastifyInstance, context: AdminContext): void {
  const slots = new ExportSlots(admin)
  admin.route({
    method: 'GET',
    url: '/usage-logs',
    schema: {
      operationId: 'listUsageLogs',
      summary: 'The usage log',
      description: 'Newest first. Filters combine.',
      querystring: QUERY,
      response: {
        ...refusals(404),
        200: {
          description: 'A page, or a file.',
          content: {
            'application/json': { schema: ANSWER },
            'text/csv': {
              schema: {
                type: 'string',
                description:
                  'A header, then one line per row; an apostrophe precedes what a spreadsheet would run, also after a semicolon.'
              }
            },
            'application/x-ndjson': { schema: { type: 'string', description: 'One JSON object per line.' } }
          }
        }
      }
    },
    handler: async (request, reply) => {
      const given = queryOf(request)
      const format = readChoice(given, 'format', FORMAT)
      const page = readPage(given, CURSOR)
      const filter = await readFilter(context, request)
      if (format === 'json') {
        const rows = await listUsage(context.db, filter, { ...page, limit: page.limit + 1 })
        return { usage_logs: shown(rows, page).map(usageEntry), next_cursor: nextCursor(rows, page, CURSOR) }
      }
      const { limit, ...start } = page
      const rows = () => exportUsage(context.db, filter, given.limit === undefined ? start : { limit, ...start })
      return await sendExport(slots, format, rows, request, reply)
    }
  })
}

async function readFilter({ types }: AdminContext, request: FastifyRequest): Promise<UsageFilter> {
  const given = queryOf(request)
  const filter: UsageFilter = {
    userId: readUserFilter(given, 'user_id'),
    endpoint: readText(request, 'endpoint', MAX_ENDPOINT_LENGTH),
    ...readSpan(given)
  }
  const key = readText(request, 'quota_type')
  if (key !== undefined) filter.typeId = (await types.find(key, 'named in the query')).id
  return filter
}
