// One contender in a process of its own: `node contenders.js <name> <postgres url> <limit>`. All have the same route; it tells its port.
import rateLimit from '@fastify/rate-limit'
import Fastify from 'fastify'
import pg from 'pg'
import { RateLimiterPostgres } from 'rate-limiter-flexible'
import quotaPlugin from '../../dist/index.js'

const CONNECTIONS = 10
const [name, url, limit] = [process.argv[2], process.argv[3], Number(process.argv[4])]

const userOf = request => request.headers['x-user']
const quota = (app, options = {}) =>
  app.register(quotaPlugin, {
    connection: { url, max: CONNECTIONS },
    quotas: { calls: { limit, period: 'day' } },
    identify: userOf,
    ...options
  })

const CONTENDERS = {
  bare: () => {},

  'rate-limit-memory': app =>
    app.register(rateLimit, { max: limit, timeWindow: '1 day', keyGenerator: userOf, cache: 20_000 }),

  'flexible-postgres': async app => {
    const pool = new pg.Pool({ connectionString: url, max: CONNECTIONS })
    const limiter = await new Promise((resolve, reject) => {
      const made = new RateLimiterPostgres(
        { storeClient: pool, tableName: 'flexible', points: limit, duration: 86_400, clearExpiredByTimeout: false },
        error => (error ? reject(error) : resolve(made))
      )
    })
    app.addHook('onRequest', async (request, reply) => {
      try {
        await limiter.consume(userOf(request))
      } catch (refused) {
        if (refused instanceof Error) throw refused
        return reply.code(429).send({ error: 'too many requests' })
      }
    })
  },

  // As in the system we replace: what is between the statements lets others past the limit.
  'check-update-insert': async app => {
    const pool = new pg.Pool({ connectionString: url, max: CONNECTIONS })
    await pool.query(
      'CREATE TABLE IF NOT EXISTS naive_limits (user_id text PRIMARY KEY, used bigint NOT NULL DEFAULT 0)'
    )
    await pool.query(
      'CREATE TABLE IF NOT EXISTS naive_logs (id bigserial PRIMARY KEY, user_id text, endpoint text, created_at timestamptz DEFAULT now())'
    )
    app.addHook('onRequest', async (request, reply) => {
      const user = userOf(request)
      const { rows } = await pool.query('SELECT used FROM naive_limits WHERE user_id = $1', [user])
      if (rows.length === 0)
        await pool.query('INSERT INTO naive_limits (user_id) VALUES ($1) ON CONFLICT DO NOTHING', [user])
      if (Number(rows[0]?.used ?? 0) >= limit) return reply.code(429).send({ error: 'too many requests' })
    })
    app.addHook('onSend', async request => {
      const user = userOf(request)
      await pool.query('UPDATE naive_limits SET used = used + 1 WHERE user_id = $1', [user])
      await pool.query('INSERT INTO naive_logs (user_id, endpoint) VALUES ($1, $2)', [user, request.routeOptions.url])
    })
  },

  quota: app => quota(app),
  'quota-after-reply': app => quota(app, { settle: 'after-reply' })
}

const app = Fastify()
await CONTENDERS[name](app)
app.get('/calls', { config: { quota: 'calls' } }, async () => ({ ok: true }))
await app.listen({ host: '127.0.0.1', port: 0 })
process.send(app.server.address().port)
process.once('SIGTERM', async () => {
  await app.close()
  process.exit(0)
})
