// The operator's routes: an encapsulated child with its own authorisation, validation and errors.
import buildValidatorFactory from '@fastify/ajv-compiler'
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchema, FastifySchemaCompiler } from 'fastify'
import { FST_QUOTA_STORE, FST_QUOTA_UNKNOWN_TYPE } from '../quota/errors.ts'
import { PROBLEM_JSON, problem } from '../quota/problem.ts'
import { adjustQuotaRoute } from './adjust-quota.ts'
import type { Authorize } from './authorize.ts'
import { ACTOR, type AdminContext } from './context.ts'
import { listUsageRoute } from './list-usage.ts'
import { resetQuotaRoute } from './reset-quota.ts'
import { viewQuotasRoute } from './view-quotas.ts'

export async function addAdminRoutes(
  app: FastifyInstance,
  context: AdminContext & { prefix: string; authorize: Authorize }
): Promise<void> {
  await app.register(
    async admin => {
      admin.decorateRequest(ACTOR, '')
      admin.setValidatorCompiler(strictValidator())
      admin.setErrorHandler(answerError)
      admin.addHook('onRequest', (request, reply) => authorizeRequest(context.authorize, request, reply))
      // Within the prefix an unknown path is refused like a known one: without a token it tells nothing.
      admin.setNotFoundHandler((request, reply) =>
        reply
          .code(404)
          .type(PROBLEM_JSON)
          .send(problem(404, `There is no ${request.method} route at this path.`))
      )
      for (const addRoute of [viewQuotasRoute, listUsageRoute, resetQuotaRoute, adjustQuotaRoute])
        addRoute(admin, context)
    },
    { prefix: context.prefix }
  )
}

/** Fastify's own validator turns `limit: null` into 0 and drops what it does not know: not with money. */
function strictValidator(): FastifySchemaCompiler<FastifySchema> {
  return buildValidatorFactory()(
    {},
    { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: true, allErrors: false } }
  )
}

async function authorizeRequest(authorize: Authorize, request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  reply.header('cache-control', 'no-store')
  const actor = await authorize(request)
  if (typeof actor === 'string' && actor !== '') {
    ;(request as unknown as { [ACTOR]: string })[ACTOR] = actor
    return
  }
  request.log.warn({ endpoint: request.routeOptions.url }, 'quota admin request refused')
  return reply
    .code(403)
    .type(PROBLEM_JSON)
    .send(problem(403, 'This needs the header X-Admin-Token with a valid token.'))
}

interface RequestError extends Error {
  statusCode?: number
  code?: string
  field?: string
  validation?: readonly { instancePath: string; params: Record<string, unknown>; message?: string }[]
  validationContext?: string
}

function answerError(error: RequestError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const [status, detail] = describe(error)
  if (status >= 500) request.log.error({ err: error }, 'quota admin request failed')
  const members = { ...(error.code?.startsWith('FST_QUOTA_') ? { code: error.code } : {}), ...fieldOf(error) }
  if (status === 503) reply.header('retry-after', 2)
  return reply
    .code(status)
    .type(PROBLEM_JSON)
    .send(problem(status, detail, members))
}

/** What went wrong in here is not told to the outside. */
function describe(error: RequestError): [status: number, detail: string] {
  if (error instanceof FST_QUOTA_STORE)
    return [503, 'The quota database does not answer at the moment; nothing was changed.']
  const status = error instanceof FST_QUOTA_UNKNOWN_TYPE ? 404 : (error.statusCode ?? 500)
  if (status >= 500) return [500, 'Something failed in here; the log has it.']
  return [status, error.validation ? validationDetail(error) : error.message]
}

function validationDetail({ validation, validationContext }: RequestError): string {
  const [first] = validation as NonNullable<RequestError['validation']>
  const unknown = first?.params.additionalProperty
  const where = `${validationContext ?? 'request'}${first?.instancePath.replaceAll('/', '.') ?? ''}`
  return unknown === undefined
    ? `${where} ${first?.message ?? 'is not valid'}.`
    : `${where} has the field '${String(unknown)}', which is not known here.`
}

function fieldOf({ validation, field }: RequestError): { field?: string } {
  if (field !== undefined) return { field }
  const [first] = validation ?? []
  const name =
    first?.params.additionalProperty ?? first?.params.missingProperty ?? first?.instancePath.split('/').at(-1)
  return typeof name === 'string' && name !== '' ? { field: name } : {}
}
