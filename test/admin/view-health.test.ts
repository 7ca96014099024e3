import { once } from 'node:events'
import { type AddressInfo, connect as connectSocket, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { LightMyRequestResponse } from 'fastify'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { isAnswer, isProblem, operated, TOKEN } from '../fixtures/admin.ts'
import { embeddedDir, server } from '../fixtures/database.ts'
import { ask, byHeader, metered, newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t, {}, app => {
  app.get('/calls', { config: { quota: { type: 'calls', amount: 6 } } }, async () => 'done')
  app.get('/fails', { config: { quota: 'tokens' } }, async (_, reply) => reply.code(500).send('failed'))
})
const health = (token?: string | null) => call('/health', { token: token === undefined ? TOKEN : token })
const processOf = async () => (await health()).json().process

const PROCESS = ['uptime_seconds', 'charged', 'released', 'denied', 'unenforced', 'store_failed', 'pending', 'dropped']

/** The whole answer has these fields and no others. */
function isWhole(t: Test, reply: LightMyRequestResponse): void {
  const { database, process, ...rest } = reply.json()
  t.strictSame(Object.keys(rest), ['status', 'service', 'timestamp'])
  t.strictSame(Object.keys(database), ['kind', 'version', 'latency_ms'])
  t.strictSame(Object.keys(process), PROCESS)
  for (const [field, count] of Object.entries(process)) t.ok(Number.isInteger(count), `${field}: ${count}`)
  t.equal(rest.service, 'quota-admin')
  t.ok(Math.abs(Date.parse(rest.timestamp) - Date.now()) < 60_000)
  t.match(rest.timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
}

t.test('200: shows only the status without a token, and also answers HEAD', async t => {
  const reply = await health(null)
  isAnswer(t, reply)
  t.equal(reply.body, '{"status":"healthy"}')
  const head = await call('/health', { method: 'HEAD', token: null })
  isAnswer(t, head)
  t.equal(head.body, '')
  t.equal(head.headers['content-length'], reply.headers['content-length'])
})

t.test('200: with the token, adds the database and the counts of this process', async t => {
  const reply = await health()
  isAnswer(t, reply)
  isWhole(t, reply)
  const { status, database } = reply.json()
  t.equal(status, 'healthy')
  t.match(database, { kind: 'drizzle', version: /^\d+(\.\d+)+$/ })
  t.ok(database.latency_ms >= 0 && database.latency_ms < 30_000)
  isAnswer(t, await call('/health', { method: 'HEAD' }))
})

t.test('200: names the kind of database connection', async t => {
  const connection = { dataDir: await embeddedDir(t) }
  const admin = { token: TOKEN }
  const own = await metered(t, db, () => {}, { connection, admin })
  const reply = await own.inject({ url: '/admin/quotas/health', headers: { 'x-admin-token': TOKEN } })
  t.match(reply.json(), { status: 'healthy', database: { kind: 'embedded' } })
})

t.test('200: counts what this process charged, released and denied', async t => {
  const user = newUser()
  const before = await processOf()
  t.equal((await ask(app, user, '/calls')).statusCode, 200)
  t.equal((await ask(app, user, '/fails')).statusCode, 500)
  t.equal((await ask(app, user, '/calls')).statusCode, 402)
  await t.rejects(app.quota.consume(user, 'calls', 5), { code: 'FST_QUOTA_EXCEEDED' })
  await t.rejects(app.quota.reserve(user, { type: 'calls', amount: 5 }), { code: 'FST_QUOTA_EXCEEDED' })
  const other = newUser()
  await app.quota.consume(other, 'calls', 1)
  await (await app.quota.reserve(other, 'tokens')).release()
  await (await app.quota.reserve(other, 'tokens')).commit()
  const { uptime_seconds, ...after } = await processOf()
  t.ok(uptime_seconds >= before.uptime_seconds)
  t.strictSame(after, {
    charged: before.charged + 3,
    released: before.released + 2,
    denied: before.denied + 3,
    unenforced: 0,
    store_failed: 0,
    pending: 0,
    dropped: 0
  })
  const { charged, released, denied } = app.quota.counts()
  t.match(after, { charged, released, denied })
})

t.test('200: is never metered and asks for no identity, whatever the rules say', async t => {
  const everything = [{ url: '/*', quota: 'calls', amount: 1_000_000 }]
  const strict = await metered(t, db, app => void app.get('/things', async () => 'things'), {
    rules: everything,
    admin: { token: TOKEN }
  })
  t.equal((await strict.inject('/things')).statusCode, 401)
  for (const method of ['GET', 'HEAD'] as const) {
    const reply = await strict.inject({ method, url: '/admin/quotas/health', headers: { 'x-user': 'alice' } })
    isAnswer(t, reply)
    t.equal(reply.headers['x-quota-type'], undefined)
  }
  t.equal((await strict.inject('/admin/quotas/health')).body, '{"status":"healthy"}')
})

t.test('200: shows everything if authorize returns an actor, and otherwise only the status', async t => {
  const answers: Record<string, unknown> = { no: null, empty: '', nothing: undefined, yes: true, carol: 'carol' }
  const own = await metered(t, db, () => {}, {
    identify: byHeader,
    admin: { authorize: request => answers[request.headers['x-operator'] as string] as string }
  })
  const as = (operator: string, token?: string) =>
    own.inject({
      url: '/admin/quotas/health',
      headers: { 'x-operator': operator, ...(token === undefined ? {} : { 'x-admin-token': token }) }
    })
  for (const operator of ['no', 'empty', 'nothing', 'yes', 'unheard of']) {
    const reply = await as(operator)
    isAnswer(t, reply)
    t.equal(reply.body, '{"status":"healthy"}', operator)
  }
  t.equal((await as('no', TOKEN)).body, '{"status":"healthy"}', 'the token counts for nothing when authorize decides')
  isWhole(t, await as('carol'))
})

t.test('200: is not rate-limited', async t => {
  const replies = await Promise.all(Array.from({ length: 300 }, () => health(null)))
  t.ok(replies.every(reply => reply.statusCode === 200 && reply.body === '{"status":"healthy"}'))
})

t.test('400: takes no parameters', async t => {
  isProblem(t, await call('/health?verbose=1'), 400, { field: 'verbose' })
})

t.test('403: with a wrong token, which does not even get the status', async t => {
  for (const token of ['', 'wrong', TOKEN.slice(1), `${TOKEN} .`]) isProblem(t, await health(token), 403, {}, token)
})

t.test('404: any other method, but 403 without the token, as for similar paths', async t => {
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE'] as const) {
    isProblem(t, await call('/health', { method, body: {} }), 404, {}, method)
    isProblem(t, await call('/health', { method, body: {}, token: null }), 403, {}, `${method} without the token`)
  }
  for (const path of ['/health/', '/health/x', '/Health', '//health'])
    isProblem(t, await call(path, { token: null }), 403, {}, path)
})

t.test('503: the database does not answer, with the token or without it', async t => {
  const user = newUser()
  await health(null)
  await db.close()
  // The answer without a token is kept for a second.
  await sleep(1_100)
  const bare = await health(null)
  t.strictSame([bare.statusCode, bare.body], [503, '{"status":"unhealthy"}'])
  t.equal(bare.headers['content-type'], 'application/json; charset=utf-8')
  t.equal(bare.headers['cache-control'], 'no-store')
  t.equal(bare.headers['retry-after'], '2')
  t.equal((await call('/health', { method: 'HEAD', token: null })).statusCode, 503)
  t.equal((await ask(app, user, '/calls')).statusCode, 503)
  const whole = await health()
  t.equal(whole.statusCode, 503)
  isWhole(t, whole)
  t.match(whole.json(), {
    status: 'unhealthy',
    database: { kind: 'drizzle', version: null, latency_ms: null },
    process: { store_failed: 1 }
  })
  t.notMatch(whole.body, /PGlite|closed/i)
  isProblem(t, await health('wrong'), 403, {}, 'but a wrong token is still refused')
})

t.test('503: the database is read-only, and 200 again once it accepts writes', async t => {
  const pg = await server(t)
  const url = await pg.migrated()
  const app = await metered(t, db, () => {}, { connection: url, admin: { token: TOKEN } })
  const admin = postgres(url, { max: 1 })
  t.teardown(() => admin.end())
  const database = new URL(url).pathname.slice(1)
  const become = async (setting: 'on' | 'off') => {
    await admin.unsafe(`SET default_transaction_read_only = off`)
    await admin.unsafe(`ALTER DATABASE ${database} SET default_transaction_read_only = ${setting}`)
    // As happens to the connections of a primary that is demoted.
    await admin`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`
  }
  const status = async () => (await app.inject('/admin/quotas/health')).statusCode
  t.equal(await status(), 200)
  for (const [setting, expected] of [
    ['on', 503],
    ['off', 200]
  ] as const) {
    await become(setting)
    // The answer without a token is kept for a second, and the first query on a terminated connection fails.
    for (let i = 0; i < 50 && (await status()) !== expected; i++) await sleep(200)
    t.equal(await status(), expected, setting)
  }
})

t.test('503: within 5 seconds if the database hangs, and 200 again once it answers', async t => {
  const pg = await server(t)
  const wire = await proxyTo(t, new URL(await pg.migrated()))
  const app = await metered(t, db, () => {}, { connection: wire.url, admin: { token: TOKEN } })
  const ask = (headers = {}) => app.inject({ url: '/admin/quotas/health', headers })
  const both = async () => await Promise.all([ask(), ask({ 'x-admin-token': TOKEN })])
  const [, whole] = await both()
  t.match(whole?.json(), { status: 'healthy', database: { kind: 'postgres', version: /^\d+(\.\d+)+$/ } })
  wire.hang()
  // The answer without a token is kept for a second.
  await sleep(1_100)
  const start = performance.now()
  for (const { statusCode } of await both()) t.equal(statusCode, 503)
  t.ok(performance.now() - start < 5_000, 'before a monitor gives up')
  wire.goOn()
  const statuses = async () => (await both()).map(({ statusCode }) => statusCode)
  for (let i = 0; i < 40 && String(await statuses()) !== '200,200'; i++) await sleep(250)
  t.strictSame(await statuses(), [200, 200])
})

/** A proxy to PostgreSQL that can stop forwarding, as if a cable had been pulled. */
async function proxyTo(t: Test, target: URL): Promise<{ url: string; hang(): void; goOn(): void }> {
  const sockets = new Set<Socket>()
  let isHanging = false
  const proxy = createServer(client => {
    const upstream = connectSocket(Number(target.port), target.hostname)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => {}).once('close', () => sockets.delete(socket))
    }
    client.on('data', data => isHanging || upstream.write(data)).on('close', () => upstream.destroy())
    upstream.on('data', data => isHanging || client.write(data)).on('close', () => client.destroy())
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    proxy.close()
  })
  const url = new URL(target)
  url.port = String((proxy.address() as AddressInfo).port)
  return {
    url: url.href,
    hang: () => {
      isHanging = true
    },
    goOn: () => {
      isHanging = false
    }
  }
}
