import t from 'tap'
import { example } from '../fixtures/example.ts'

const { app, logged } = await example(t, 'patterns')
const ask = (user: string, url: string, method: 'GET' | 'POST' = 'GET') =>
  app.inject({ method, url, headers: { 'x-user-id': user } })
const used = async (user: string) => (await app.quota.all(user)).map(({ type, used }) => [type, used])

t.test('charges by the most specific rule', async t => {
  t.match((await ask('alice', '/api/items')).headers, { 'x-quota-cost': '1' })
  t.match((await ask('alice', '/api/search')).headers, { 'x-quota-cost': '5' })
  t.strictSame(await used('alice'), [
    ['api_calls', 6],
    ['pages', 0]
  ])
})

t.test('charges a call and its pages together', async t => {
  const reply = await ask('bob', '/api/print/thesis?pages=40', 'POST')
  t.strictSame(reply.json(), { printed: 40 })
  t.match(reply.headers, {
    'x-quota-type': 'pages',
    'x-quota-cost': '40',
    'x-quota-remaining': '10',
    'ratelimit-policy': /"api_calls";q=1000;w=86400, "pages";q=50;w=\d+/,
    ratelimit: /"api_calls";r=999;t=\d+, "pages";r=10;t=\d+/
  })
})

t.test('charges neither the call nor its pages if the pages do not fit', async t => {
  const reply = await ask('bob', '/api/print/thesis?pages=11', 'POST')
  t.equal(reply.statusCode, 402)
  t.match(reply.json(), { 'violated-policies': ['pages'], quota_type: 'pages', required: 11, remaining: 10 })
  t.strictSame(await used('bob'), [
    ['api_calls', 1],
    ['pages', 40]
  ])
})

t.test("answers with the status that the quota type's denial names", async t => {
  await app.quota.consume('carol', 'api_calls', 999)
  const reply = await ask('carol', '/api/search')
  t.equal(reply.statusCode, 429)
  t.match(reply.json(), { status: 429, quota_type: 'api_calls', required: 5, remaining: 1 })
})

t.test('leaves exempt routes free, even for a request without a user', async t => {
  for (const url of ['/api/status/queue', '/api/prices']) {
    const reply = await app.inject({ url })
    t.equal(reply.statusCode, 200, url)
    t.equal(reply.headers['x-quota-cost'], undefined)
  }
  t.ok((await app.inject({ url: '/api/prices' })).json().includes('/api/print/:document'))
})

t.test('logs the declared route, not the requested path', async t => {
  await ask('dora', '/api/print/private-matters?pages=2', 'POST')
  const charged = logged().filter(line => line.msg === 'quota charged' && line.user === 'dora')
  t.match(charged, [
    { type: 'api_calls', amount: 1, endpoint: '/api/print/:document' },
    { type: 'pages', amount: 2, endpoint: '/api/print/:document' }
  ])
  t.notMatch(JSON.stringify(charged), 'private-matters')
})
