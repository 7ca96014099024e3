// PATCH /users/:userId: changes what is known about a user.
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { FST_QUOTA_UNKNOWN_USER } from '../quota/errors.ts'
import { isTimeZone } from '../quota/period.ts'
import { isDay, isEmail } from '../quota/user-profile.ts'
import { type User, type UserChange, updateUser } from '../store/operator/update-user.ts'
import { type AdminContext, actorOf } from './context.ts'
import { readUserId, refuse } from './input.ts'
import { body, CHANGE_REFUSALS, query, REASON_FIELD, refusals, TIME, USER_PARAMS } from './schemas.ts'

const BODY = body({
  email: {
    type: ['string', 'null'],
    description: 'An e-mail address; null removes it.',
    examples: ['alice@example.com']
  },
  time_zone: {
    type: 'string',
    description: 'An IANA time zone such as Europe/Berlin, from the next period on.',
    examples: ['Europe/Berlin']
  },
  period_anchor: {
    type: ['string', 'null'],
    description:
      "A day such as 2026-01-31 that weeks, months and years are counted from, starting with the next period; null for the calendar's own.",
    examples: ['2026-01-31']
  },
  reason: REASON_FIELD
})

const ANSWER = {
  type: 'object',
  description: 'The user after the change.',
  required: ['user_id', 'email', 'time_zone', 'period_anchor', 'created_at'],
  properties: {
    user_id: { type: 'string' },
    email: { type: ['string', 'null'] },
    time_zone: { type: 'string' },
    period_anchor: { type: ['string', 'null'], format: 'date' },
    created_at: TIME
  }
} as const

export function updateUserRoute(admin: FastifyInstance, { db }: AdminContext): void {
  admin.route({
    method: 'PATCH',
    url: '/users/:userId',
    schema: {
      operationId: 'updateQuotaUser',
      summary: "Change a user's e-mail address or calendar",
      description: 'Fields left out keep their values. Current periods keep their end.',
      params: USER_PARAMS,
      querystring: query({}),
      body: BODY,
      response: { ...refusals(...CHANGE_REFUSALS), 200: ANSWER }
    },
    handler: async request => {
      const userId = readUserId(request)
      const user = await updateUser(db, userId, readChange(request), actorOf(request))
      if (user === undefined) throw new FST_QUOTA_UNKNOWN_USER()
      return document(user)
    }
  })
}

function readChange(request: FastifyRequest): UserChange {
  const { email, time_zone: timeZone, period_anchor: periodAnchor } = request.body as Record<string, string | null>
  if (email === undefined && timeZone === undefined && periodAnchor === undefined)
    throw refuse('body', 'names nothing to change; give email, time_zone or period_anchor')
  if (email !== undefined && email !== null && !isEmail(email))
    throw refuse('email', 'must be an e-mail address of at most 320 characters, or null')
  if (timeZone !== undefined && !isTimeZone(timeZone))
    throw refuse('time_zone', 'must be an IANA time zone such as Europe/Berlin')
  if (periodAnchor !== undefined && periodAnchor !== null && !isDay(periodAnchor))
    throw refuse('period_anchor', 'must be a day such as 2026-01-31, or null')
  return {
    ...(email === undefined ? {} : { email }),
    ...(timeZone === undefined ? {} : { timeZone }),
    ...(periodAnchor === undefined ? {} : { periodAnchor })
  }
}

const document = ({ id, email, timeZone, periodAnchor, createdAt }: User) => ({
  user_id: id,
  email,
  time_zone: timeZone,
  period_anchor: periodAnchor,
  created_at: createdAt.toISOString()
})
