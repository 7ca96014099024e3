// GET /users: who is near a limit, and who uses most.
import type { FastifyInstance } from 'fastify'
import { QUOTA_SCHEMA, quotaEntry } from '../quota/quota-document.ts'
import { listUsers, type UserFilter, type UserRank } from '../store/operator/list-users.ts'
import type { AdminContext } from './context.ts'
import { type Query, queryOf, readChoice, readText, readUserFilter, refuse } from './input.ts'
import { byRank, nextCursor, readPage, shown } from './page.ts'
import { NEXT_CURSOR, PAGE_FIELDS, QUOTA_TYPE_FIELD, query, refusals } from './schemas.ts'

const SORT = {
  type: 'string',
  enum: ['usage_percent', 'used', 'user_id'],
  default: 'usage_percent',
  description:
    'usage_percent: nearest to a limit first; used: most used and held first, useful only with one quota_type; user_id: by id.'
} as const

const MAX_PERCENT = 1_000_000

const QUERY = query({
  user_id: { type: 'string', description: 'Only this user.', examples: ['alice'] },
  min_usage_percent: {
    type: 'number',
    minimum: 0,
    maximum: MAX_PERCENT,
    description: 'Only users who have used (and hold) at least this percentage of a limit. Unlimited quotas have none.',
    examples: [80]
  },
  quota_type: { ...QUOTA_TYPE_FIELD, description: 'Only quotas of this type. Default: those of every active type.' },
  sort: SORT,
  ...PAGE_FIELDS
})

const PROFILE = {
  user_id: { type: 'string' },
  email: { type: ['string', 'null'] },
  time_zone: { type: 'string' },
  period_anchor: { type: ['string', 'null'], format: 'date' }
} as const

const ANSWER = {
  type: 'object',
  description: 'A page of users.',
  required: ['users', 'next_cursor'],
  properties: {
    users: {
      type: 'array',
      description: 'Every user once, with the quota that ranks them.',
      items: {
        ...QUOTA_SCHEMA,
        required: [...Object.keys(PROFILE), ...QUOTA_SCHEMA.required],
        properties: { ...PROFILE, ...QUOTA_SCHEMA.properties }
      }
    },
    next_cursor: NEXT_CURSOR
  }
} as const

export function listUsersRoute(admin: FastifyInstance, { db, types }: AdminContext): void {
  admin.route({
    method: 'GET',
    url: '/users',
    schema: {
      operationId: 'listQuotaUsers',
      summary: 'Who is near a limit, and who uses most',
      querystring: QUERY,
      response: { ...refusals(404), 200: ANSWER }
    },
    handler: async request => {
      const given = queryOf(request)
      const sort = readChoice(given, 'sort', SORT)
      const cursor = byRank(sort)
      const page = readPage(given, cursor)
      const filter: UserFilter = {
        userId: readUserFilter(given, 'user_id'),
        minUsagePercent: readPercent(given, 'min_usage_percent')
      }
      const key = readText(request, 'quota_type')
      if (key !== undefined) filter.typeId = (await types.find(key, 'named in the query')).id
      const users = await listUsers(db, filter, sort, { ...page, limit: page.limit + 1 })
      return { users: shown(users, page).map(entry), next_cursor: nextCursor(users, page, cursor) }
    }
  })
}

function readPercent(given: Query, field: string): number | undefined {
  const value = given[field]
  if (value === undefined) return undefined
  const percent = /^[0-9]{1,7}(\.[0-9]{1,6})?$/.test(value) ? Number(value) : Number.NaN
  if (!(percent <= MAX_PERCENT)) throw refuse(field, `must be a number from 0 to ${MAX_PERCENT}, such as 80 or 99.5`)
  return percent
}

const entry = ({ userId, email, timeZone, periodAnchor, quota, usagePercent }: UserRank) => ({
  user_id: userId,
  email,
  time_zone: timeZone,
  period_anchor: periodAnchor,
  ...quotaEntry(quota),
  usage_percent: usagePercent
})
