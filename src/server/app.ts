// The standalone server, put together: identity, quotas, the API of the replaced system, its description.
import { randomUUID } from 'node:crypto'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import { quotaPlugin } from '../plugin.ts'
import { open } from '../store/connection/connect.ts'
import type { Database } from '../store/database.ts'
import { addAnswers, refuse } from './answers.ts'
import { addIdentity, requireCaller } from './caller.ts'
import { answerClientError } from './client-error.ts'
import { closeIdleConnections } from './close-idle.ts'
import { addDocumentation } from './documentation.ts'
import { healthRoute } from './health-route.ts'
import { Imaging } from './imaging.ts'
import { QUOTAS, RULES } from './quotas.ts'
import type { Settings } from './settings.ts'
import { taskRoutes } from './task-routes.ts'
import { uploadRoutes } from './upload-routes.ts'

/** A user id of 255 characters, each of four bytes, each byte as %XX. Fastify's default of 100 would answer such a user with 414. */
const MAX_PARAM_LENGTH = 255 * 4 * 3
const PART_TOO_LONG = `path has a part of more than ${MAX_PARAM_LENGTH} characters; shorten it.`
const BAD_ESCAPE = 'path has invalid percent-encoding; write a percent sign itself as %25.'
/** The embedded engine needs seconds on its first start, and the plugin waits 5 s for a PostgreSQL that is starting. */
const PLUGIN_TIMEOUT_MS = 60_000

/** Ready to listen. If the boot fails, it rejects and leaves nothing open. */
export async function buildServer(settings: Settings): Promise<FastifyInstance> {
  const app = Fastify({
    logger: { level: settings.logLevel, serializers: { req: describeRequest } },
    routerOptions: { maxParamLength: MAX_PARAM_LENGTH },
    // The audit log records it, so it must be unique among all processes and all times.
    genReqId: () => randomUUID(),
    // What Fastify refuses before there is a route.
    frameworkErrors: (error, _request, reply) => {
      const status = error.statusCode ?? 400
      const detail = status === 414 ? PART_TOO_LONG : BAD_ESCAPE
      refuse(reply.header('cache-control', 'no-store'), status, error.code, detail, { field: 'path' })
    },
    clientErrorHandler: answerClientError,
    pluginTimeout: PLUGIN_TIMEOUT_MS
  })
  try {
    await assemble(app, settings)
    await app.ready()
    return app
  } catch (error) {
    await app.close().catch(() => {})
    throw error
  }
}

async function assemble(app: FastifyInstance, settings: Settings): Promise<void> {
  closeIdleConnections(app)
  const db = settings.isQuotaEnabled ? await openForHealth(app, settings.connection) : undefined
  const identify = await addIdentity(app, settings.jwtSecret)
  addAnswers(app, { asksForToken: settings.isAuthEnabled })
  await addDocumentation(app, settings)
  if (settings.isQuotaEnabled) {
    await app.register(quotaPlugin, {
      connection: settings.connection,
      quotas: QUOTAS,
      rules: RULES,
      ...(settings.isAuthEnabled ? {} : { identify }),
      ...(settings.adminToken === undefined ? {} : { admin: { token: settings.adminToken } })
    })
  }
  healthRoute(app, db)
  await app.register(async api => {
    requireCaller(api, identify)
    const imaging = new Imaging()
    taskRoutes(api, imaging, settings)
    await uploadRoutes(api, imaging, settings)
  })
}

/** A connection of its own: the quotas' may all be busy, and that is not a failure. An embedded database is shared. */
async function openForHealth(app: FastifyInstance, connection: Settings['connection']): Promise<Database> {
  const db = await open(typeof connection === 'string' ? { url: connection, max: 1 } : connection)
  app.addHook('onClose', () => db.close())
  return db
}

/** The declared route, never the path that was asked for, which may contain patients' names. */
const describeRequest = (request: FastifyRequest) => ({
  method: request.method,
  route: request.routeOptions?.url,
  remoteAddress: request.ip
})
