// GET /health: whether this server can do its work, for monitoring. It asks for no token, and tells nothing else.
import type { FastifyInstance } from 'fastify'
import { STORE_RETRY_SECONDS } from '../quota/problem.ts'
import { viewWritableHealth } from '../store/connection/view-health.ts'
import type { Database } from '../store/database.ts'

const HEALTH = {
  description: 'The server can do its work.',
  type: 'object',
  required: ['status', 'service', 'timestamp', 'database'],
  properties: {
    status: { type: 'string', enum: ['healthy', 'unhealthy'] },
    service: { type: 'string' },
    timestamp: { type: 'string', format: 'date-time' },
    database: {
      type: 'string',
      enum: ['reachable', 'unreachable', 'unused'],
      description: 'unused: with ENABLE_QUOTA=false, nothing is metered.'
    }
  }
} as const

export function healthRoute(app: FastifyInstance, db: Database | undefined): void {
  app.route({
    method: 'GET',
    url: '/health',
    schema: {
      summary: 'Whether the server is healthy',
      tags: ['operation'],
      response: { 200: HEALTH, 503: { ...HEALTH, description: 'The database cannot be reached, or is read-only.' } }
    },
    handler: async (request, reply) => {
      const database =
        db === undefined ? 'unused' : await reach(db, error => request.log.error({ err: error }, 'unhealthy'))
      const isHealthy = database !== 'unreachable'
      return reply
        .code(isHealthy ? 200 : 503)
        .header('cache-control', 'no-store')
        .headers(isHealthy ? {} : { 'retry-after': String(STORE_RETRY_SECONDS) })
        .send({
          status: isHealthy ? 'healthy' : 'unhealthy',
          service: 'fastify-quota',
          timestamp: new Date().toISOString(),
          database
        })
    }
  })
}

/** A monitor wants an answer before it gives up. */
const DEADLINE_MS = 2_000

async function reach(db: Database, onError: (error: unknown) => void): Promise<'reachable' | 'unreachable'> {
  try {
    await viewWritableHealth(db, DEADLINE_MS)
    return 'reachable'
  } catch (error) {
    onError(error)
    return 'unreachable'
  }
}
