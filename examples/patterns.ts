// Prices in one place: rules by route, several charges at once, computed amounts, and routes that are free.
import { fileURLToPath } from 'node:url'
import Fastify, { type FastifyRequest, type FastifyServerOptions } from 'fastify'
import quotaPlugin from 'fastify-quota'

/** Path parameters and query strings are text, and not yet validated when the amount is asked for. */
function pagesOf(request: FastifyRequest): number {
  const { pages } = request.query as { pages?: string }
  return Number.parseInt(pages ?? '', 10) || 1
}

export async function build(options: FastifyServerOptions = { logger: true }) {
  const app = Fastify(options)

  await app.register(quotaPlugin, {
    quotas: {
      api_calls: { limit: 1000, period: 'day', denial: { statusCode: 429 } },
      pages: { name: 'Printed pages', unit: 'page', limit: 50, period: 'month' }
    },
    rules: [
      // Everything below /api costs a call …
      { url: '/api/*', quota: 'api_calls' },
      // … searching costs five, …
      { method: 'GET', url: '/api/search', quota: 'api_calls', amount: 5 },
      // … and printing a call and its pages: both, or neither.
      { method: 'POST', url: '/api/print/:document', quota: ['api_calls', { type: 'pages', amount: pagesOf }] },
      // The most specific rule wins, so these stay free.
      { url: '/api/status/*', quota: false }
    ],
    identify: request => String(request.headers['x-user-id'] ?? '')
  })

  app.get('/api/items', async () => ({ items: [] }))

  app.get('/api/search', async () => ({ found: [] }))

  app.post('/api/print/:document', async request => ({ printed: pagesOf(request) }))

  app.get('/api/status/queue', async () => ({ waiting: 0 }))

  // A route's own setting wins over every rule.
  app.get('/api/prices', { config: { quota: false } }, async () => app.quota.routes().map(({ url }) => url))

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await build()
  await app.listen({ port: 3000 })
  app.log.info('Try: curl -i -X POST -H "X-User-Id: alice" "http://localhost:3000/api/print/thesis?pages=40", twice')
}
