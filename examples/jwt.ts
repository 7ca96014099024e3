// Users are told by their tokens: with @fastify/jwt registered, the verified `sub` is charged.
import { fileURLToPath } from 'node:url'
import jwt from '@fastify/jwt'
import Fastify, { type FastifyServerOptions } from 'fastify'
import quotaPlugin from 'fastify-quota'

export async function build(options: FastifyServerOptions = { logger: true }) {
  const secret = process.env.JWT_SECRET
  if (!secret) throw new Error('JWT_SECRET is not set; `openssl rand -base64 32` makes a good one')

  const app = Fastify(options)

  // The plugin also does this by itself, when it is given the option `jwt: { secret }`.
  await app.register(jwt, { secret, verify: { algorithms: ['HS256'] } })

  await app.register(quotaPlugin, {
    quotas: { api_calls: { name: 'API calls', limit: 100, period: 'month' } },
    rules: [{ url: '/api/*', quota: 'api_calls' }]
  })

  app.get('/api/time', async () => ({ time: new Date().toISOString() }))

  app.get('/about', async () => ({ about: 'No rule matches this route: it needs no token, and costs nothing.' }))

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await build()
  await app.listen({ port: 3000 })
  const token = app.jwt.sign({ sub: 'alice' }, { expiresIn: '1h' })
  app.log.info(`Try: curl -i -H "Authorization: Bearer ${token}" http://localhost:3000/api/time`)
  app.log.info(`And: curl -H "Authorization: Bearer ${token}" http://localhost:3000/quotas/me`)
}
