// GET /audit-logs: who changed what, when and why. No route changes it.
import type { FastifyInstance } from 'fastify'
import { type AuditEntry, listAudit } from '../store/operator/list-audit.ts'
import type { AdminContext } from './context.ts'
import { queryOf, readChoice, readSpan, readText, readUserFilter } from './input.ts'
import { byTime, nextCursor, readPage, shown } from './page.ts'
import { NEXT_CURSOR, PAGE_FIELDS, QUOTA_TYPE_FIELD, query, refusals, SPAN_FIELDS, TIME } from './schemas.ts'

const ACTION = {
  type: 'string',
  enum: ['reset', 'adjust', 'update_user', 'delete_user', 'create_type', 'update_type', 'reconcile'],
  description: 'Only changes of this kind.'
} as const

const QUERY = query({
  user_id: {
    type: 'string',
    description: 'Only changes to this user, even one who was deleted.',
    examples: ['alice']
  },
  actor: { type: 'string', description: 'Only changes by this actor.', examples: ['admin'] },
  action: ACTION,
  quota_type: { ...QUOTA_TYPE_FIELD, description: 'Only changes to this quota type.' },
  ...SPAN_FIELDS,
  ...PAGE_FIELDS
})

const STATE = {
  type: ['object', 'null'],
  additionalProperties: true,
  description: 'The values by name; null if there were none.'
} as const

const ANSWER = {
  type: 'object',
  description: 'A page of the audit log.',
  required: ['audit_logs', 'next_cursor'],
  properties: {
    audit_logs: {
      type: 'array',
      items: {
        type: 'object',
        required: [
          'id',
          'actor',
          'action',
          'user_id',
          'quota_type',
          'before',
          'after',
          'reason',
          'request_id',
          'created_at'
        ],
        properties: {
          id: { type: 'string', format: 'uuid' },
          actor: {
            type: 'string',
            description: "The token's name, what authorize returned, a command's name, or application."
          },
          action: { type: 'string', enum: ACTION.enum },
          user_id: { type: ['string', 'null'], description: 'null if the change was not to a user.' },
          quota_type: { type: ['string', 'null'], description: 'null if the change was not to one quota.' },
          before: STATE,
          after: STATE,
          reason: { type: ['string', 'null'] },
          request_id: { type: ['string', 'null'], description: "The request's id in the application's log." },
          created_at: TIME
        }
      }
    },
    next_cursor: NEXT_CURSOR
  }
} as const

const CURSOR = byTime('audit-logs')

export function listAuditRoute(admin: FastifyInstance, { db }: AdminContext): void {
  admin.route({
    method: 'GET',
    url: '/audit-logs',
    schema: {
      operationId: 'listQuotaAuditLogs',
      summary: 'The audit log',
      description: 'Newest first. Filters combine.',
      querystring: QUERY,
      response: { ...refusals(), 200: ANSWER }
    },
    handler: async request => {
      const given = queryOf(request)
      const page = readPage(given, CURSOR)
      const filter = {
        userId: readUserFilter(given, 'user_id'),
        actor: readText(request, 'actor'),
        action: given.action === undefined ? undefined : readChoice(given, 'action', { ...ACTION, default: 'reset' }),
        quotaType: readText(request, 'quota_type'),
        ...readSpan(given)
      }
      const rows = await listAudit(db, filter, { ...page, limit: page.limit + 1 })
      return { audit_logs: shown(rows, page).map(entry), next_cursor: nextCursor(rows, page, CURSOR) }
    }
  })
}

const entry = (row: AuditEntry) => ({
  id: row.id,
  actor: row.actor,
  action: row.action,
  user_id: row.userId,
  quota_type: row.quotaType,
  before: row.before,
  after: row.after,
  reason: row.reason,
  request_id: row.requestId,
  created_at: row.createdAt.toISOString()
})
