import { request as httpRequest } from 'node:http'
import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import quotaPlugin from '../../src/index.ts'
import { isProblem, operated, TOKEN } from '../fixtures/admin.ts'
import { auditOf } from '../fixtures/charges.ts'
import { byHeader, metered, newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
await app.quota.consume('alice', 'calls')

const ROUTES = [
  ['GET', '/users'],
  ['GET', '/users/alice'],
  ['PATCH', '/users/alice'],
  ['DELETE', '/users/alice'],
  ['POST', '/users/alice/reset'],
  ['PUT', '/users/alice/adjust?quota_type=calls&new_limit=5'],
  ['GET', '/usage-logs'],
  ['GET', '/usage-logs?format=csv'],
  ['GET', '/statistics/calls'],
  ['GET', '/quota-types'],
  ['PUT', '/quota-types/calls'],
  ['GET', '/audit-logs'],
  ['GET', '/nothing'],
  ['POST', '/users/alice'],
  ['GET', '']
] as const

t.test('refuses every path under the prefix without the right token, whether or not it exists', async t => {
  for (const [method, url] of ROUTES) {
    for (const token of [null, '', 'wrong', TOKEN.slice(0, -1), `${TOKEN}.`, TOKEN.toUpperCase()])
      isProblem(t, await call(url, { method, token }), 403, {}, `${method} ${url} with ${token}`)
  }
  t.strictSame(await auditOf(db, 'alice'), [], 'and changes nothing')
})

t.test('accepts the token only in its header', async t => {
  const elsewhere = {
    url: `/admin/quotas/users/alice?token=${encodeURIComponent(TOKEN)}&x-admin-token=${encodeURIComponent(TOKEN)}`,
    headers: { authorization: `Bearer ${TOKEN}`, cookie: `X-Admin-Token=${TOKEN}` }
  }
  isProblem(t, await app.inject(elsewhere), 403)
})

t.test('refuses a request that sends the header twice, even with the right token both times', async t => {
  await app.listen({ port: 0 })
  const { port } = app.server.address() as { port: number }
  const statusOf = (...tokens: string[]) =>
    new Promise((resolve, reject) => {
      const request = httpRequest({ port, path: '/admin/quotas/users/alice', headers: { 'X-Admin-Token': tokens } })
      request.on('response', reply => resolve(reply.resume().statusCode)).on('error', reject)
      request.end()
    })
  t.equal(await statusOf(TOKEN), 200)
  t.equal(await statusOf(TOKEN, TOKEN), 403)
  t.equal(await statusOf('wrong', TOKEN), 403)
  t.equal(await statusOf(TOKEN, 'wrong'), 403)
})

t.test('answers an unknown path with 404 if the token is right', async t => {
  for (const [method, url] of ROUTES.slice(-3)) isProblem(t, await call(url, { method }), 404, {}, url)
})

t.test("writes the token's name into the audit log", async t => {
  const user = newUser()
  const token = { ops: 'the token of operations', deploy: 'the token of deployment' }
  const app = await metered(t, db, () => {}, { admin: { token } })
  await app.quota.consume(user, 'calls')
  for (const value of Object.values(token)) {
    const reply = await app.inject({
      method: 'POST',
      url: `/admin/quotas/users/${user}/reset?quota_type=calls`,
      headers: { 'x-admin-token': value }
    })
    t.equal(reply.statusCode, 200)
  }
  t.strictSame((await auditOf(db, user)).map(({ actor }) => actor).sort(), ['deploy', 'ops'])
})

t.test("lets the application's authorize function decide, and records its answer as the actor", async t => {
  const user = newUser()
  const answers: Record<string, unknown> = { carol: 'carol', no: null, nothing: undefined, empty: '', yes: true }
  const app = await metered(t, db, () => {}, {
    admin: { authorize: async request => answers[request.headers['x-operator'] as string] as string }
  })
  await app.quota.consume(user, 'calls')
  const reset = (operator: string) =>
    app.inject({
      method: 'POST',
      url: `/admin/quotas/users/${user}/reset?quota_type=calls`,
      headers: { 'x-operator': operator, 'x-admin-token': TOKEN }
    })
  for (const operator of ['no', 'nothing', 'empty', 'yes']) {
    const refused = await reset(operator)
    isProblem(t, refused, 403, {}, operator)
    t.notMatch(refused.body, /X-Admin-Token/, 'does not mention a header that would not help')
  }
  t.equal((await reset('carol')).statusCode, 200)
  t.strictSame(
    (await auditOf(db, user)).map(({ actor }) => actor),
    ['carol']
  )
})

t.test('lets nobody through when authorize throws, and does not reveal why', async t => {
  const app = await metered(t, db, () => {}, {
    admin: {
      authorize: async request => {
        const status = Number(request.headers['x-status'])
        throw Object.assign(new Error('ldap://secret-host is down'), status ? { statusCode: status } : {})
      }
    }
  })
  const ask = (status: string) => app.inject({ url: '/admin/quotas/users/alice', headers: { 'x-status': status } })
  const failed = await ask('')
  isProblem(t, failed, 500)
  t.notMatch(failed.body, 'secret-host')
  isProblem(t, await ask('401'), 401)
})

t.test('never meters admin routes, whatever the rules say', async t => {
  const admin = { token: TOKEN }
  const app = await metered(t, db, app => void app.get('/things', async () => 'things'), {
    admin,
    rules: [{ url: '/*', quota: 'calls' }]
  })
  const reply = await app.inject({ url: '/admin/quotas/users/alice', headers: { 'x-admin-token': TOKEN } })
  t.equal(reply.statusCode, 200)
  t.equal(reply.headers['x-quota-type'], undefined)
  t.equal((await app.inject('/things')).statusCode, 401)
})

t.test('refuses an actor that the audit log cannot store', async t => {
  const app = await metered(t, db, () => {}, { admin: { authorize: () => 'a\0b' } })
  isProblem(t, await app.inject('/admin/quotas/users/alice'), 403)
})

t.test('accepts only JSON bodies, whatever the application parses', async t => {
  const parsers: ((app: FastifyInstance) => void)[] = [
    app => {
      app.addContentTypeParser('application/json', { parseAs: 'buffer' }, async (_: unknown, body: unknown) => body)
    },
    app => app.removeAllContentTypeParsers(),
    app => {
      app.addContentTypeParser('application/x-www-form-urlencoded', async () => ({ quota_type: 'calls' }))
      app.addContentTypeParser('*', async () => ({ quota_type: 'calls' }))
    }
  ]
  for (const addParsers of parsers) {
    const app = Fastify()
    t.teardown(() => app.close())
    addParsers(app)
    await app.register(quotaPlugin, { connection: db.orm, identify: byHeader, admin: { token: TOKEN } })
    const reset = (type: string, payload: string) =>
      app.inject({
        method: 'POST',
        url: '/admin/quotas/users/alice/reset',
        headers: { 'x-admin-token': TOKEN, 'content-type': type },
        payload
      })
    t.equal((await reset('application/json', '{"quota_type":"calls"}')).statusCode, 200)
    isProblem(t, await reset('application/json', '{"__proto__":{}}'), 400, { field: 'body' })
    isProblem(t, await reset('application/x-www-form-urlencoded', 'quota_type=calls'), 415, { field: 'body' })
    isProblem(t, await reset('text/csv', 'quota_type'), 415, { field: 'body' })
  }
})
