// PUT /users/:userId/adjust: gives a user another limit.
import type { FastifyInstance } from 'fastify'
import { MAX_AMOUNT, UNLIMITED } from '../quota/amount.ts'
import { FST_QUOTA_UNKNOWN_USER } from '../quota/errors.ts'
import { adjustQuota } from '../store/operator/adjust-quota.ts'
import { userExists } from '../store/operator/find-user.ts'
import { type AdminContext, actorOf } from './context.ts'
import { readLimit, readText, readUserId, refuse } from './input.ts'
import {
  CHANGE_REFUSALS,
  optionalBody,
  QUOTA_TYPE_FIELD,
  query,
  REASON_FIELD,
  refusals,
  USER_PARAMS
} from './schemas.ts'

/** Both are required, each in the query or in the body. */
const INPUT = {
  quota_type: QUOTA_TYPE_FIELD,
  new_limit: {
    type: 'integer',
    minimum: UNLIMITED,
    maximum: MAX_AMOUNT,
    description:
      'The new limit in base units, 0 to 2^53−1, or -1 for unlimited. It may be below what is used: the next request is then denied.',
    examples: [500]
  },
  reason: REASON_FIELD
} as const

const ANSWER = {
  type: 'object',
  description: 'The limit was changed.',
  required: ['message', 'user_id', 'quota_type', 'new_limit', 'current_usage', 'remaining'],
  properties: {
    message: { type: 'string' },
    user_id: { type: 'string' },
    quota_type: { type: 'string' },
    new_limit: { type: 'integer' },
    current_usage: { type: 'integer', description: 'Charged in the current period.' },
    remaining: { type: 'integer', description: '-1 means unlimited.' }
  }
} as const

export function adjustQuotaRoute(admin: FastifyInstance, { db, types, changed }: AdminContext): void {
  admin.route({
    method: 'PUT',
    url: '/users/:userId/adjust',
    schema: {
      operationId: 'adjustUserQuota',
      summary: "Change a user's limit",
      description: 'quota_type and new_limit are required, in the query or in the body.',
      params: USER_PARAMS,
      querystring: query(INPUT),
      body: optionalBody(INPUT),
      response: { ...refusals(...CHANGE_REFUSALS, 422), 200: ANSWER }
    },
    handler: async request => {
      const userId = readUserId(request)
      const by = actorOf(request)
      const key = readText(request, 'quota_type')
      if (key === undefined) throw refuse('quota_type', 'is missing; name the quota type to adjust')
      const newLimit = readLimit(request, 'new_limit')
      await types.find(key, 'to be adjusted')
      if (!(await userExists(db, userId))) throw new FST_QUOTA_UNKNOWN_USER()
      const balance = await adjustQuota(db, userId, key, newLimit, by).finally(() => changed(userId))
      // The user was deleted just now.
      if (balance === undefined) throw new FST_QUOTA_UNKNOWN_USER()
      const message =
        newLimit === UNLIMITED ? `'${key}' is now unlimited.` : `The limit of '${key}' is now ${newLimit}.`
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
