// PUT /users/:userId/adjust: gives a user another limit.
import type { FastifyInstance } from 'fastify'
import { UNLIMITED } from '../quota/amount.ts'
import { FST_QUOTA_UNKNOWN_TYPE, FST_QUOTA_UNKNOWN_USER } from '../quota/errors.ts'
import { PROBLEM_SCHEMA } from '../quota/quota-document.ts'
import { adjustQuota } from '../store/adjust-quota.ts'
import { userExists } from '../store/find-user.ts'
import { type AdminContext, actorOf } from './context.ts'
import { readLimit, readText, readUserId, refuse } from './input.ts'
import { optionalBody, QUOTA_TYPE_FIELD, REASON_FIELD, USER_PARAMS } from './schemas.ts'

const LIMIT_MEANING =
  'The new limit in base units, 0 to 2^53−1; -1: unlimited. Also below what is used: the next request is then denied.'

const ANSWER = {
  type: 'object',
  required: ['message', 'user_id', 'quota_type', 'new_limit', 'current_usage', 'remaining'],
  properties: {
    message: { type: 'string' },
    user_id: { type: 'string' },
    quota_type: { type: 'string' },
    new_limit: { type: 'integer' },
    current_usage: { type: 'integer', description: 'Charged in the running period.' },
    remaining: { type: 'integer', description: '-1: unlimited.' }
  }
} as const

export function adjustQuotaRoute(admin: FastifyInstance, { db, types }: AdminContext): void {
  admin.route({
    method: 'PUT',
    url: '/users/:userId/adjust',
    config: { quota: false },
    schema: {
      summary: "Change a user's limit",
      tags: ['quota-admin'],
      params: USER_PARAMS,
      querystring: {
        type: 'object',
        additionalProperties: false,
        properties: {
          quota_type: QUOTA_TYPE_FIELD,
          new_limit: { type: 'string', description: LIMIT_MEANING },
          reason: REASON_FIELD
        }
      },
      body: optionalBody({
        quota_type: QUOTA_TYPE_FIELD,
        new_limit: { type: 'number', description: LIMIT_MEANING },
        reason: REASON_FIELD
      }),
      response: {
        200: ANSWER,
        400: PROBLEM_SCHEMA,
        403: PROBLEM_SCHEMA,
        404: PROBLEM_SCHEMA,
        422: PROBLEM_SCHEMA,
        503: PROBLEM_SCHEMA
      }
    },
    handler: async request => {
      const userId = readUserId(request)
      const key = readText(request, 'quota_type')
      if (key === undefined) throw refuse('quota_type', 'is missing; name the quota type to adjust')
      const newLimit = readLimit(request, 'new_limit')
      await types.get(key, 'to be adjusted')
      if (!(await userExists(db, userId))) throw new FST_QUOTA_UNKNOWN_USER()
      const balance = await adjustQuota(db, userId, key, newLimit, actorOf(request))
      if (balance === undefined) throw new FST_QUOTA_UNKNOWN_TYPE(key, 'switched off before this user was seen')
      const message =
        newLimit === UNLIMITED ? `'${key}' is unlimited now.` : `The limit of '${key}' is ${newLimit} now.`
      return {
        message,
        user_id: userId,
        quota_type: key,
        new_limit: newLimit,
        current_usage: balance.used,
        remaining: balance.remaining
      }
    }
  })
}
