// The operator's routes: an encapsulated child with its own authorisation, validation and errors.
// For the fields that it adds to a route's schema.
import type {} from '@fastify/swagger'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { FST_QUOTA_UNKNOWN_PATH } from '../quota/errors.ts'
import { adjustQuotaRoute } from './adjust-quota.ts'
import { answerError } from './answer-error.ts'
import { answeringInText } from './answer-text.ts'
import type { Authorization } from './authorize.ts'
import type { AdminContext } from './context.ts'
import { deleteUserRoute } from './delete-user.ts'
import { addGate } from './gate.ts'
import { refuse } from './input.ts'
import { listAuditRoute } from './list-audit.ts'
import { listTypesRoute } from './list-types.ts'
import { listUsageRoute } from './list-usage.ts'
import { listUsersRoute } from './list-users.ts'
import { strictly } from './read-json.ts'
import { resetQuotaRoute } from './reset-quota.ts'
import { lazySerializer } from './serialize.ts'
import { setTypeRoute } from './set-type.ts'
import { updateUserRoute } from './update-user.ts'
import { strictValidator } from './validate.ts'
import { viewHealthRoute } from './view-health.ts'
import { viewQuotasRoute } from './view-quotas.ts'
import { viewStatisticsRoute } from './view-statistics.ts'

/** Fastify takes `%zz` in a query literally, and the answer would be about somebody else. */
async function refuseBadEscapes({ originalUrl }: FastifyRequest): Promise<void> {
  try {
    decodeURIComponent(originalUrl.slice(originalUrl.indexOf('?') + 1))
  } catch {
    throw refuse('query', 'has invalid percent-encoding; write a percent sign itself as %25')
  }
}

const ROUTES = [
  viewHealthRoute,
  listUsersRoute,
  viewQuotasRoute,
  updateUserRoute,
  deleteUserRoute,
  resetQuotaRoute,
  adjustQuotaRoute,
  listUsageRoute,
  viewStatisticsRoute,
  listTypesRoute,
  setTypeRoute,
  listAuditRoute
]

export async function addAdminRoutes(
  app: FastifyInstance,
  context: AdminContext & Authorization & { prefix: string }
): Promise<void> {
  await app.register(
    async admin => {
      admin.setValidatorCompiler(strictValidator())
      admin.setSerializerCompiler(lazySerializer())
      admin.setErrorHandler(answerError)
      // Only JSON is accepted here, whatever the application's own routes take.
      admin.removeAllContentTypeParsers()
      admin.addContentTypeParser(
        'application/json',
        { parseAs: 'string' },
        strictly(admin.getDefaultJsonParser('error', 'error'))
      )
      await addGate(admin, context)
      admin.addHook('preValidation', refuseBadEscapes)
      // Within the prefix an unknown path is refused like a known one: without a token it reveals nothing.
      admin.setNotFoundHandler((request, reply) =>
        answerError(new FST_QUOTA_UNKNOWN_PATH(request.method), request, reply)
      )
      // The operator is never metered, whatever the rules say.
      admin.addHook('onRoute', route => {
        route.config = { ...route.config, quota: false }
        route.schema = { tags: ['quota-admin'], ...route.schema }
        route.handler = answeringInText(route.handler)
      })
      for (const addRoute of ROUTES) addRoute(admin, context)
    },
    { prefix: context.prefix }
  )
}
