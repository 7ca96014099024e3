import rateLimit from '@fastify/rate-limit'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import quotaPlugin, { type QuotaOptions } from '../../src/index.ts'
import { isProblem, operated, TOKEN } from '../fixtures/admin.ts'
import { embedded } from '../fixtures/database.ts'
import { byHeader, QUOTAS } from '../fixtures/metered.ts'

const db = await embedded(t)

/** An application whose log lines are collected. */
async function logging(t: Test, admin: QuotaOptions['admin'] = { token: TOKEN }) {
  const lines: string[] = []
  const app = Fastify({ logger: { level: 'info', stream: { write: (line: string) => void lines.push(line) } } })
  t.teardown(() => app.close())
  await app.register(quotaPlugin, {
    connection: db.orm,
    quotas: QUOTAS,
    identify: byHeader,
    ...(admin ? { admin } : {})
  })
  await app.ready()
  const ask = (token: string | undefined, remoteAddress = '203.0.113.7', url = '/admin/quotas/quota-types') =>
    app.inject({ url, remoteAddress, headers: token === undefined ? {} : { 'x-admin-token': token } })
  return { app, lines, ask }
}

const WRONG = 'a token that nobody was given'

t.test('answers 429 with Retry-After to an address that tries many wrong tokens', async t => {
  const { ask, lines } = await logging(t)
  const statuses: number[] = []
  for (let i = 0; i < 110; i++) statuses.push((await ask(`${WRONG} ${i}`)).statusCode)
  t.ok(statuses.slice(0, 50).every(status => status === 403))
  t.ok(statuses.slice(-5).every(status => status === 429))
  t.equal(lines.filter(line => JSON.parse(line).slowed).length, 1, 'the log says once that it is slowed down')
  const slowed = await ask(WRONG)
  isProblem(t, slowed, 429, { code: 'FST_QUOTA_TOO_MANY_ATTEMPTS' })
  t.match(slowed.headers['retry-after'], /^[1-9][0-9]?$/)

  t.test('still lets the right token in, and leaves other addresses alone', async t => {
    t.equal((await ask(TOKEN)).statusCode, 200)
    t.equal((await ask(WRONG, '203.0.113.8')).statusCode, 403)
    t.equal((await ask(undefined)).statusCode, 403, 'a request without a token is no attempt')
  })
})

t.test("limits wrong tokens even if the application's own rate limiter exempts the address", async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { global: false, allowList: () => true })
  await app.register(quotaPlugin, {
    connection: db.orm,
    quotas: QUOTAS,
    identify: byHeader,
    admin: { token: TOKEN }
  })
  let last = 0
  for (let i = 0; i < 110; i++)
    last = (await app.inject({ url: '/admin/quotas/users', headers: { 'x-admin-token': WRONG } })).statusCode
  t.equal(last, 429)
})

t.test('does not count requests with the right token or with none', async t => {
  const { ask } = await logging(t)
  for (let i = 0; i < 120; i++) await Promise.all([ask(TOKEN), ask(undefined)])
  t.equal((await ask(WRONG)).statusCode, 403)
})

t.test("counts requests that the application's authorize refuses", async t => {
  const { ask } = await logging(t, { authorize: () => undefined })
  let last = 0
  for (let i = 0; i < 110; i++) last = (await ask(undefined)).statusCode
  t.equal(last, 429)
})

t.test('logs a refusal with the address and the declared route, but never a token', async t => {
  const { ask, lines } = await logging(t)
  await ask(WRONG, '203.0.113.9', '/admin/quotas/users/a%20patient')
  const line = lines.map(text => JSON.parse(text)).find(({ msg }) => msg === 'quota admin request refused')
  t.match(line, { level: 40, ip: '203.0.113.9', endpoint: '/admin/quotas/users/:userId' })
  await ask(TOKEN)
  t.notMatch(lines.join(''), new RegExp(`${WRONG}|${TOKEN}`))
})

t.test('ignores method override headers, and does not reveal which routes exist', async t => {
  const { call } = await operated(t)
  const bodies = new Set<string>()
  for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const)
    for (const url of ['/users', '/users/alice', '/nothing', '/health/', '/health/x', '/HEALTH', '//health'])
      bodies.add((await call(url, { method, token: null })).body)
  t.equal(bodies.size, 1)
  const { app } = await logging(t)
  for (const header of ['x-http-method-override', 'x-method-override', 'x-http-method']) {
    const reply = await app.inject({ method: 'GET', url: '/admin/quotas/health', headers: { [header]: 'DELETE' } })
    t.strictSame(reply.json(), { status: 'healthy' })
    const users = await app.inject({ method: 'POST', url: '/admin/quotas/health', headers: { [header]: 'GET' } })
    isProblem(t, users, 403)
  }
})

t.test("works alongside the application's own rate limit, which does not count wrong tokens", async t => {
  const { default: rateLimit } = await import('@fastify/rate-limit')
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { max: 3, timeWindow: 60_000 })
  await app.register(quotaPlugin, { connection: db.orm, quotas: QUOTAS, identify: byHeader, admin: { token: TOKEN } })
  app.get('/', async () => 'x')
  const ask = (url: string, token: string) => app.inject({ url, headers: { 'x-admin-token': token } })
  const wrong = (await Promise.all(Array.from({ length: 3 }, () => ask('/admin/quotas/users', WRONG)))).map(
    r => r.statusCode
  )
  t.strictSame(wrong, [403, 403, 403])
  t.equal((await ask('/', TOKEN)).statusCode, 200, "the application's own limit does not count our wrong tokens")
})
