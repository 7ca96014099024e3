// DELETE /users/:userId: forgets a user. The audit log keeps that it happened.
import type { FastifyInstance } from 'fastify'
import { FST_QUOTA_UNKNOWN_USER } from '../quota/errors.ts'
import { deleteUser } from '../store/operator/delete-user.ts'
import { userExists } from '../store/operator/find-user.ts'
import { type AdminContext, actorOf } from './context.ts'
import { readUserId } from './input.ts'
import { CHANGE_REFUSALS, optionalBody, query, REASON_FIELD, refusals, USER_PARAMS } from './schemas.ts'

const INPUT = { reason: REASON_FIELD }

export function deleteUserRoute(admin: FastifyInstance, { db, changed, forgetDenials }: AdminContext): void {
  admin.route({
    method: 'DELETE',
    url: '/users/:userId',
    schema: {
      operationId: 'deleteQuotaUser',
      summary: 'Delete a user',
      description:
        "The user's counters, periods and usage log are deleted too; work still running is not charged. A user who comes back under this id starts again, with the defaults.",
      params: USER_PARAMS,
      querystring: query(INPUT),
      body: optionalBody(INPUT),
      response: { ...refusals(...CHANGE_REFUSALS), 204: { type: 'null', description: 'The user was deleted.' } }
    },
    handler: async (request, reply) => {
      const userId = readUserId(request)
      const by = actorOf(request)
      // First, because it has a short deadline.
      const isKnown = await userExists(db, userId)
      if (!isKnown || !(await deleteUser(db, userId, by).finally(() => changed(userId))))
        throw new FST_QUOTA_UNKNOWN_USER()
      forgetDenials(userId)
      return reply.code(204).send()
    }
  })
}
