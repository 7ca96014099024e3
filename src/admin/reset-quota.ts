// POST /users/:userId/reset: closes a running period early and opens a new one.
import type { FastifyInstance } from 'fastify'
import { FST_QUOTA_KIND_MISMATCH, FST_QUOTA_UNKNOWN_USER } from '../quota/errors.ts'
import { userExists } from '../store/operator/find-user.ts'
import { resetQuota } from '../store/operator/reset-quota.ts'
import { type AdminContext, actorOf } from './context.ts'
import { readText, readUserId } from './input.ts'
import {
  CHANGE_REFUSALS,
  optionalBody,
  QUOTA_TYPE_FIELD,
  query,
  REASON_FIELD,
  refusals,
  USER_PARAMS
} from './schemas.ts'

const INPUT = {
  quota_type: {
    ...QUOTA_TYPE_FIELD,
    description: 'The flow to reset. Default: all flows. A level never resets (409).'
  },
  reason: REASON_FIELD
}

const ANSWER = {
  type: 'object',
  description: 'What was reset.',
  required: ['message', 'user_id', 'quotas_reset', 'quota_type'],
  properties: {
    message: { type: 'string' },
    user_id: { type: 'string' },
    quotas_reset: { type: 'integer', description: 'How many quotas were reset.' },
    quota_type: { type: 'string', description: '"all" if none was named.' }
  }
} as const

export function resetQuotaRoute(admin: FastifyInstance, { db, types, changed }: AdminContext): void {
  admin.route({
    method: 'POST',
    url: '/users/:userId/reset',
    schema: {
      operationId: 'resetUserQuotas',
      summary: "Reset a user's quotas",
      description:
        'Closes the current period and opens a new one, which ends when the old one would have. No usage log is deleted.',
      params: USER_PARAMS,
      querystring: query(INPUT),
      body: optionalBody(INPUT),
      response: { ...refusals(...CHANGE_REFUSALS), 200: ANSWER }
    },
    handler: async request => {
      const userId = readUserId(request)
      const by = actorOf(request)
      const key = readText(request, 'quota_type')
      const type = key === undefined ? undefined : await types.find(key, 'to be reset')
      if (type?.kind === 'level')
        throw Object.assign(new FST_QUOTA_KIND_MISMATCH(type.key, type.kind, 'it never resets'), {
          field: 'quota_type'
        })
      if (!(await userExists(db, userId))) throw new FST_QUOTA_UNKNOWN_USER()
      const done = await resetQuota(db, userId, key ?? null, by).finally(() => changed(userId))
      const message = `${done.length === 1 ? '1 quota was' : `${done.length} quotas were`} reset; earlier usage stays in the log.`
      return { message, user_id: userId, quotas_reset: done.length, quota_type: key ?? 'all' }
    }
  })
}
