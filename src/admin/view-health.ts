// GET /health: whether the quotas can be kept. Without a token, only that is told.
import type { FastifyInstance } from 'fastify'
import { STORE_RETRY_SECONDS } from '../quota/problem.ts'
import { type DatabaseHealth, viewWritableHealth } from '../store/connection/view-health.ts'
import type { Database } from '../store/database.ts'
import { type AdminContext, actorName } from './context.ts'
import { query, refusals, TIME } from './schemas.ts'

const COUNT = { type: 'integer', minimum: 0 } as const

const ANSWER = {
  type: 'object',
  description: 'Without a token: only `status`.',
  required: ['status'],
  properties: {
    status: { type: 'string', enum: ['healthy', 'unhealthy'] },
    service: { type: 'string', const: 'quota-admin' },
    timestamp: TIME,
    database: {
      type: 'object',
      required: ['kind', 'version', 'latency_ms'],
      properties: {
        kind: {
          type: 'string',
          enum: ['postgres', 'embedded', 'drizzle'],
          description: "drizzle: the application's own connection."
        },
        version: { type: ['string', 'null'], description: 'The version of PostgreSQL; null if it did not answer.' },
        latency_ms: { type: ['number', 'null'], description: 'The latency of one query; null if it did not answer.' }
      }
    },
    process: {
      type: 'object',
      description: 'Counts of this process since it started; other processes have their own.',
      required: ['uptime_seconds', 'charged', 'released', 'denied', 'unenforced', 'store_failed', 'pending', 'dropped'],
      properties: {
        uptime_seconds: { type: 'integer' },
        charged: { ...COUNT, description: 'Requests and calls that were charged.' },
        released: { ...COUNT, description: 'Requests and calls whose amount was released.' },
        denied: { ...COUNT, description: 'Requests and calls that were refused.' },
        unenforced: {
          ...COUNT,
          description: 'Requests let through unmetered because the store failed and storeFailure is open.'
        },
        store_failed: { ...COUNT, description: 'Requests answered 503 because the store failed.' },
        pending: {
          ...COUNT,
          description: 'Charges and releases waiting to be written; staying above 0 for long is a fault.'
        },
        dropped: { ...COUNT, description: 'Charges that can never be written, such as those of a deleted user.' }
      }
    }
  }
} as const

export function viewHealthRoute(admin: FastifyInstance, context: AdminContext): void {
  const bare = new RecentHealth(context.db)
  admin.route({
    method: 'GET',
    url: '/health',
    schema: {
      operationId: 'viewQuotaHealth',
      summary: 'Whether the quota database can be used',
      querystring: query({}),
      response: {
        ...refusals(),
        200: ANSWER,
        503: { ...ANSWER, description: 'The database does not answer, or is read-only.' }
      }
    },
    handler: async (request, reply) => {
      const isBare = actorName(request) === ''
      const health = await (isBare ? bare.view() : examine(context.db)).catch((error: unknown) => {
        request.log.error({ err: error }, 'quota health: the database does not answer, or is read-only')
        return undefined
      })
      const status = health === undefined ? 'unhealthy' : 'healthy'
      if (health === undefined) reply.code(503).header('retry-after', STORE_RETRY_SECONDS)
      return isBare ? { status } : { status, ...document(context, health) }
    }
  })
}

/** A monitor wants an answer before it gives up. */
const DEADLINE_MS = 2_000

const examine = (db: Database): Promise<DatabaseHealth> => viewWritableHealth(db, DEADLINE_MS)

/** Anybody may ask for this as often as they like, so not each request may be a query. */
class RecentHealth {
  readonly #db: Database
  #askedAt = Number.NEGATIVE_INFINITY
  #health: Promise<DatabaseHealth> | undefined

  constructor(db: Database) {
    this.#db = db
  }

  view(): Promise<DatabaseHealth> {
    if (this.#health === undefined || performance.now() - this.#askedAt > 1_000) {
      this.#askedAt = performance.now()
      this.#health = examine(this.#db)
    }
    return this.#health
  }
}

function document({ db, counts }: AdminContext, health: DatabaseHealth | undefined) {
  const { 'store-failed': store_failed, ...counted } = counts()
  return {
    service: 'quota-admin',
    timestamp: new Date().toISOString(),
    database: { kind: db.kind, version: health?.version ?? null, latency_ms: health?.latencyMs ?? null },
    process: { uptime_seconds: Math.floor(process.uptime()), ...counted, store_failed }
  }
}
