// One contender in a process of its own: `node contenders.js <name> <store's url> <limit> <connections>`. All have the same route; it tells its port.
import rateLimit from '@fastify/rate-limit'
import { eq, sql } from 'drizzle-orm'
import { bigint, bigserial, pgTable, text, timestamp } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import pg from 'pg'
import postgres from 'postgres'
import { RateLimiterPostgres, RateLimiterRedis } from 'rate-limiter-flexible'
import quotaPlugin from '../../dist/index.js'

const [name, url] = process.argv.slice(2, 4)
const [limit, connections] = process.argv.slice(4).map(Number)
/** Besides so many the plugin opens up to two for groups and up to three for its upkeep. */
const max = connections >= 8 ? connections - 5 : Math.floor(connections / 3)

const userOf = request => request.headers['x-user']
const quota = (app, options = {}) =>
  app.register(quotaPlugin, {
    connection: { url, max },
    quotas: { calls: { limit, period: 'day' } },
    identify: userOf,
    ...options
  })

const rateLimited = (app, store) =>
  app.register(rateLimit, { max: limit, timeWindow: '1 day', keyGenerator: userOf, ...store })
const consuming = (app, ...limiters) =>
  app.addHook('onRequest', async (request, reply) => {
    try {
      await Promise.all(limiters.map(limiter => limiter.consume(userOf(request))))
    } catch (refused) {
      if (refused instanceof Error) throw refused
      return reply.code(429).send({ error: 'too many requests' })
    }
  })

const NAIVE_TABLES = [
  'CREATE TABLE IF NOT EXISTS naive_limits (user_id text PRIMARY KEY, used bigint NOT NULL DEFAULT 0)',
  'CREATE TABLE IF NOT EXISTS naive_logs (id bigserial PRIMARY KEY, user_id text, endpoint text, created_at timestamptz DEFAULT now())'
]
const naiveLimits = pgTable('naive_limits', {
  userId: text('user_id').primaryKey(),
  used: bigint('used', { mode: 'number' }).notNull().default(0)
})
const naiveLogs = pgTable('naive_logs', {
  id: bigserial('id', { mode: 'number' }).primaryKey(),
  userId: text('user_id'),
  endpoint: text('endpoint'),
  createdAt: timestamp('created_at', { withTimezone: true }).defaultNow()
})

const flexibleIn = (storeClient, tableName) =>
  new Promise((resolve, reject) => {
    const made = new RateLimiterPostgres(
      { storeClient, tableName, points: limit, duration: 86_400, clearExpiredByTimeout: false },
      error => (error ? reject(error) : resolve(made))
    )
  })

/** As in the system we replace: what is between the statements lets others past the limit. */
async function checkUpdateInsert(app, types) {
  const pool = new pg.Pool({ connectionString: url, max: connections })
  for (const table of NAIVE_TABLES) await pool.query(table)
  // Of one type, the user alone; of several, the user and the type.
  const countersOf = request =>
    types.length === 1 ? [userOf(request)] : types.map(type => `${userOf(request)} ${type}`)
  app.addHook('onRequest', async (request, reply) => {
    for (const counter of countersOf(request)) {
      const { rows } = await pool.query('SELECT used FROM naive_limits WHERE user_id = $1', [counter])
      if (rows.length === 0)
        await pool.query('INSERT INTO naive_limits (user_id) VALUES ($1) ON CONFLICT DO NOTHING', [counter])
      if (Number(rows[0]?.used ?? 0) >= limit) return reply.code(429).send({ error: 'too many requests' })
    }
  })
  app.addHook('onSend', async (request, reply) => {
    if (reply.statusCode !== 200) return
    for (const counter of countersOf(request)) {
      await pool.query('UPDATE naive_limits SET used = used + 1 WHERE user_id = $1', [counter])
      await pool.query('INSERT INTO naive_logs (user_id, endpoint) VALUES ($1, $2)', [
        counter,
        request.routeOptions.url
      ])
    }
  })
}

const CONTENDERS = {
  bare: () => {},

  'rate-limit-memory': app => rateLimited(app, { cache: 20_000 }),
  'rate-limit-redis': app => rateLimited(app, { redis: new Redis(url) }),
  'flexible-redis': app =>
    consuming(app, new RateLimiterRedis({ storeClient: new Redis(url), points: limit, duration: 86_400 })),

  'flexible-postgres': async app =>
    consuming(app, await flexibleIn(new pg.Pool({ connectionString: url, max: connections }), 'flexible')),
  'flexible-postgres-two': async app => {
    const pool = new pg.Pool({ connectionString: url, max: connections })
    consuming(app, await flexibleIn(pool, 'flexible'), await flexibleIn(pool, 'flexible_two'))
  },

  'check-update-insert': app => checkUpdateInsert(app, ['calls']),
  'check-update-insert-two': app => checkUpdateInsert(app, ['calls', 'tokens']),

  'drizzle-check-update-insert': async app => {
    const client = postgres(url, { max: connections, onnotice: () => {} })
    for (const table of NAIVE_TABLES) await client.unsafe(table)
    const db = drizzle(client)
    app.addHook('onRequest', async (request, reply) => {
      const user = userOf(request)
      const [row] = await db.select().from(naiveLimits).where(eq(naiveLimits.userId, user))
      if (row === undefined) await db.insert(naiveLimits).values({ userId: user }).onConflictDoNothing()
      if ((row?.used ?? 0) >= limit) return reply.code(429).send({ error: 'too many requests' })
    })
    app.addHook('onSend', async (request, reply) => {
      if (reply.statusCode !== 200) return
      const user = userOf(request)
      await db
        .update(naiveLimits)
        .set({ used: sql`${naiveLimits.used} + 1` })
        .where(eq(naiveLimits.userId, user))
      await db.insert(naiveLogs).values({ userId: user, endpoint: request.routeOptions.url })
    })
  },

  quota: app => quota(app),
  'quota-two': app =>
    quota(app, { quotas: { calls: { limit, period: 'day' }, tokens: { limit, period: 'day', unit: 'token' } } }),
  unmetered: app => quota(app),
  'quota-consume': async app => {
    await quota(app)
    app.addHook('onRequest', async (request, reply) => {
      try {
        await app.quota.consume(userOf(request), 'calls', 1, { endpoint: request.routeOptions.url })
      } catch (error) {
        if (error.code !== 'FST_QUOTA_EXCEEDED') throw error
        return reply.code(402).send({ error: error.message })
      }
    })
  },
  'quota-after-reply': app => quota(app, { settle: 'after-reply' })
}

const app = Fastify()
await CONTENDERS[name](app)
const metered = name.endsWith('-two') ? ['calls', 'tokens'] : 'calls'
const isExempt = name === 'unmetered' || name === 'quota-consume'
app.get('/calls', { config: { quota: isExempt ? false : metered } }, async () => ({ ok: true }))
await app.listen({ host: '127.0.0.1', port: 0 })
process.send(app.server.address().port)
process.once('disconnect', () => process.exit(1))
process.once('SIGTERM', async () => {
  await app.close()
  process.exit(0)
})
