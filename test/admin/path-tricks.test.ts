import { connect as connectSocket } from 'node:net'
import Fastify from 'fastify'
import t from 'tap'
import quotaPlugin from '../../src/index.ts'
import { TOKEN } from '../fixtures/admin.ts'
import { embedded } from '../fixtures/database.ts'
import { byHeader, QUOTAS } from '../fixtures/metered.ts'

const db = await embedded(t)

const PATHS = [
  '/admin/quotas/users/alice',
  '/admin/quotas/users/alice/',
  '//admin/quotas/users/alice',
  '/admin//quotas/users/alice',
  '/admin/quotas//users/alice',
  '/ADMIN/QUOTAS/USERS/alice',
  '/admin/quotas/usage-logs/',
  '/Admin/quotas/usage-logs',
  '/%61dmin/quotas/usage-logs',
  '/admin/%71uotas/users/alice',
  '/admin%2Fquotas%2Fusers%2Falice',
  '/admin/quotas/users/alice%2F',
  '/admin/quotas/users/alice%00',
  '/admin/quotas/users/%2e%2e/users/alice',
  '/admin/quotas/../quotas/users/alice',
  '/quotas/../admin/quotas/users/alice',
  '/./admin/quotas/users/alice',
  '/admin/quotas;/users/alice',
  '/admin/quotas/users/alice;a=b',
  '/admin/quotas/users/alice?',
  '/admin/quotas/users/alice%3F',
  '/admin/quotas/users/alice#',
  '/admin/quotas/users/%',
  '\\admin\\quotas\\users\\alice',
  'http://localhost/admin/quotas/users/alice'
]

const ROUTERS = {
  'the default router': {},
  'the most lenient router': {
    caseSensitive: false,
    ignoreTrailingSlash: true,
    ignoreDuplicateSlashes: true,
    useSemicolonDelimiter: true
  }
}

for (const [name, routerOptions] of Object.entries(ROUTERS)) {
  t.test(`no spelling of a path gets through without the token: ${name}`, async t => {
    const app = Fastify({ routerOptions })
    t.teardown(() => app.close())
    await app.register(quotaPlugin, {
      connection: db.orm,
      quotas: QUOTAS,
      identify: byHeader,
      admin: { token: TOKEN }
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as { port: number }
    await app.quota.consume('alice', 'calls')
    t.match(
      await raw(port, 'GET', PATHS[0]!, `X-Admin-Token: ${TOKEN}\r\n`),
      /^HTTP\/1\.1 200 /,
      'with the token, the plain path does'
    )
    for (const path of PATHS) {
      for (const method of ['GET', 'HEAD', 'OPTIONS', 'POST']) {
        const reply = await raw(port, method, path)
        t.match(reply, /^HTTP\/1\.1 4(00|03|04) /, `${method} ${path}`)
        t.notMatch(reply, 'total_quotas')
      }
    }
  })
}

/** Sends the path unchanged: every HTTP client would normalise it first. */
function raw(port: number, method: string, path: string, headers = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    let reply = ''
    const socket = connectSocket(port, '127.0.0.1')
    socket.on('data', chunk => {
      reply += chunk
    })
    socket.on('end', () => resolve(reply)).on('error', reject)
    socket.write(`${method} ${path} HTTP/1.1\r\nHost: localhost\r\n${headers}Connection: close\r\n\r\n`)
  })
}
