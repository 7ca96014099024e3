// The minimum: one quota, one route that costs one unit of it, and a header that says who asks.
import { fileURLToPath } from 'node:url'
import Fastify, { type FastifyServerOptions } from 'fastify'
import quotaPlugin from 'fastify-quota'

export async function build(options: FastifyServerOptions = { logger: true }) {
  const app = Fastify(options)

  await app.register(quotaPlugin, {
    quotas: { api_calls: { limit: 3, period: 'day' } },
    // Anyone can write a header, so this is for trying out only: jwt.ts shows how to know who asks.
    identify: request => String(request.headers['x-user-id'] ?? '')
  })

  app.get('/hello', { config: { quota: 'api_calls' } }, async request => ({ hello: request.quota.userId }))

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await build()
  await app.listen({ port: 3000 })
  app.log.info('Try: curl -i -H "X-User-Id: alice" http://localhost:3000/hello, four times')
}
