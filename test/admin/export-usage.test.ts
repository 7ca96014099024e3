import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { parse } from 'csv-parse/sync'
import t from 'tap'
import { isProblem, operated, TOKEN } from '../fixtures/admin.ts'
import { newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
const url = await app.listen({ port: 0, host: '127.0.0.1' })
t.teardown(() => app.server.closeAllConnections())

/** Adds many large rows, so that the whole export fits in no buffer. */
async function fill(user: string, count: number): Promise<void> {
  await app.quota.consume(user, 'free', 0)
  await db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, endpoint, metadata)
     SELECT u.user_id, u.quota_type_id, 0, '/filled', jsonb_build_object('n', i, 'text', repeat('x', 2000))
       FROM generate_series(1, $2::int) i, (SELECT * FROM usage_logs WHERE user_id = $1 LIMIT 1) u`,
    [user, count]
  )
}

/** A reply whose body is not read yet. */
async function open(query: string): Promise<IncomingMessage> {
  const request = httpRequest(`${url}/admin/quotas/usage-logs?${query}`, {
    headers: { 'x-admin-token': TOKEN },
    agent: false
  })
  request.on('error', () => {})
  request.end()
  const [reply] = (await once(request, 'response')) as [IncomingMessage]
  t.teardown(() => reply.destroy())
  return reply
}

t.test('200: CSV with a header and CRLF; every value parses back, and no user id is a formula', async t => {
  const users = ['=1+2', '+44', '-5', '@sum', 'a,"b"', '"', "O'Brien", 'Zoë 👩🏽‍⚕️']
  for (const user of users)
    await app.quota.consume(user, 'calls', 1, { endpoint: '/a', metadata: { note: 'one, "two"\nthree', '=x': 1 } })
  await app.quota.consume('level', 'storage', 9)
  await app.quota.credit('level', 'storage', 4)
  const reply = await call('/usage-logs?format=csv')
  t.equal(reply.statusCode, 200)
  t.equal(reply.headers['content-type'], 'text/csv; charset=utf-8; header=present')
  t.equal(reply.headers['content-disposition'], 'attachment; filename="usage-logs.csv"')
  t.equal(reply.headers['cache-control'], 'no-store')
  t.ok(reply.body.startsWith('id,user_id,quota_type,amount,endpoint,metadata,created_at\r\n'))
  t.ok(reply.body.endsWith('Z\r\n'))
  const rows = parse(reply.body, { columns: true, record_delimiter: '\r\n' }) as Record<string, string>[]
  const { usage_logs } = (await call('/usage-logs')).json()
  t.equal(rows.length, usage_logs.length)
  for (const [i, row] of rows.entries()) {
    const { metadata, endpoint, ...rest } = usage_logs[i]
    t.match(row, { id: rest.id, quota_type: rest.quota_type, amount: String(rest.amount), created_at: rest.created_at })
    t.strictSame([JSON.parse(row.metadata!), row.endpoint], [metadata, endpoint ?? ''])
    t.notMatch(row.user_id, /^[=+\-@]/)
    t.ok([rest.user_id, `'${rest.user_id}`].includes(row.user_id))
  }
  t.equal(rows[0]!.amount, '-4', 'a negative number is not taken for a formula')
})

t.test('200: NDJSON with one row per line, the same as in the list', async t => {
  const reply = await call('/usage-logs?format=ndjson&quota_type=calls')
  t.equal(reply.headers['content-type'], 'application/x-ndjson; charset=utf-8')
  const lines = reply.body.split('\n')
  t.equal(lines.pop(), '')
  t.strictSame(
    lines.map(line => JSON.parse(line)),
    (await call('/usage-logs?quota_type=calls')).json().usage_logs
  )
})

t.test('200: every matching row, or only those that limit, offset or cursor ask for', async t => {
  const user = newUser()
  await fill(user, 2499)
  const count = async (query: string) =>
    (await call(`/usage-logs?user_id=${user}&format=ndjson${query}`)).body.split('\n').length - 1
  t.equal(await count(''), 2500)
  t.equal(await count('&limit=7'), 7)
  t.equal(await count('&offset=2490'), 10)
  t.equal(await count('&endpoint=/filled'), 2499)
  const { next_cursor } = (await call(`/usage-logs?user_id=${user}&limit=1000`)).json()
  t.equal(await count(`&cursor=${next_cursor}`), 1500)
  const nothing = await call('/usage-logs?user_id=nobody&format=csv')
  t.equal(nothing.body, 'id,user_id,quota_type,amount,endpoint,metadata,created_at\r\n')
  t.equal((await call('/usage-logs?user_id=nobody&format=ndjson')).body, '')
})

t.test('200: HEAD answers with the content type, but no body and no length', async t => {
  const reply = await call('/usage-logs?format=csv', { method: 'HEAD' })
  t.equal(reply.statusCode, 200)
  t.match(reply.headers['content-type'], /^text\/csv/)
  t.notOk('content-length' in reply.headers, 'the length of the export is not known (RFC 9110, 8.6)')
  t.equal(reply.body, '')
})

t.test('400, 403, 404: refuses what the list refuses', async t => {
  isProblem(t, await call('/usage-logs?format=xlsx'), 400, { code: 'FST_QUOTA_INVALID_REQUEST', field: 'format' })
  isProblem(t, await call('/usage-logs?format=csv&limit=1001'), 400, {
    code: 'FST_QUOTA_INVALID_REQUEST',
    field: 'limit'
  })
  isProblem(t, await call('/usage-logs?format=csv', { token: null }), 403)
  isProblem(t, await call('/usage-logs?format=csv&quota_type=nothing'), 404, { code: 'FST_QUOTA_UNKNOWN_TYPE' })
})

t.test('429: a third export while two others are still being read', async t => {
  const user = newUser()
  await fill(user, 20_000)
  const query = `user_id=${user}&format=ndjson`
  const [first, second] = [await open(query), await open(query)]
  const refused = await call(`/usage-logs?${query}`)
  isProblem(t, refused, 429, { code: 'FST_QUOTA_TOO_MANY_EXPORTS' })
  t.match(refused.headers['retry-after'], /^[0-9]+$/)
  t.equal((await call(`/usage-logs?user_id=${user}`)).statusCode, 200, 'a page is not an export')
  await app.quota.consume(user, 'calls')

  t.test('a client that disconnects makes room for another', async t => {
    first.destroy()
    let reply = await open(query)
    for (let i = 0; i < 100 && reply.statusCode === 429; i++) {
      reply.resume()
      await new Promise(resolve => setTimeout(resolve, 20))
      reply = await open(query)
    }
    t.equal(reply.statusCode, 200)
    reply.destroy()
    t.equal((await text(second)).split('\n').length, 20_002, 'the other export still arrives complete')
  })
})

t.test('closing the application does not wait for an export', async t => {
  const other = await operated(t)
  await other.app.quota.consume('alice', 'free', 0)
  await other.db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, metadata)
     SELECT u.user_id, u.quota_type_id, 0, jsonb_build_object('text', repeat('x', 2000))
       FROM generate_series(1, 20000) i, usage_logs u`
  )
  const otherUrl = await other.app.listen({ port: 0, host: '127.0.0.1' })
  const request = httpRequest(`${otherUrl}/admin/quotas/usage-logs?format=csv`, { headers: { 'x-admin-token': TOKEN } })
  request.on('error', () => {})
  request.end()
  const [reply] = (await once(request, 'response')) as [IncomingMessage]
  const cut = once(reply, 'error')
  await other.app.close()
  reply.resume()
  t.match(await cut, [{ code: 'ECONNRESET' }], 'the client can tell that the export is incomplete')
})

t.test('503: the database does not answer', async t => {
  await db.close()
  t.equal((await call('/usage-logs?format=csv', { method: 'HEAD' })).statusCode, 200, 'HEAD reads nothing')
  isProblem(t, await call('/usage-logs?format=csv'), 503, { code: 'FST_QUOTA_STORE' })
})
