import t from 'tap'
import { example } from '../fixtures/example.ts'

const { app, logged } = await example(t, 'minimal')
const hello = (user?: string) => app.inject({ url: '/hello', headers: user === undefined ? {} : { 'x-user-id': user } })

t.test('lets three calls a day through, and says what is left', async t => {
  for (const remaining of [2, 1, 0]) {
    const reply = await hello('alice')
    t.equal(reply.statusCode, 200)
    t.strictSame(reply.json(), { hello: 'alice' })
    t.match(reply.headers, {
      'x-quota-type': 'api_calls',
      'x-quota-limit': '3',
      'x-quota-used': String(3 - remaining),
      'x-quota-remaining': String(remaining),
      'x-quota-cost': '1',
      'ratelimit-policy': '"api_calls";q=3;w=86400',
      ratelimit: new RegExp(`^"api_calls";r=${remaining};t=\\d+$`)
    })
  }
})

t.test('refuses the fourth with 402, and says when and where there is more', async t => {
  const reply = await hello('alice')
  t.equal(reply.statusCode, 402)
  t.equal(reply.headers['content-type'], 'application/problem+json; charset=utf-8')
  t.equal(reply.headers['x-quota-cost'], '0')
  t.ok(Number(reply.headers['retry-after']) > 0)
  const { resets_at, ...body } = reply.json()
  t.strictSame(body, {
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    title: 'Quota exceeded',
    status: 402,
    detail: "This needs 1 of 'api_calls', and 0 of 3 are left.",
    code: 'FST_QUOTA_EXCEEDED',
    'violated-policies': ['api_calls'],
    quota_type: 'api_calls',
    limit: 3,
    used: 3,
    reserved: 0,
    remaining: 0,
    required: 1,
    upgrade_url: '/subscription'
  })
  t.match(resets_at, /T00:00:00\.000Z$/)
})

t.test('does not charge another user, and answers 401 to a request without a user', async t => {
  t.equal((await hello('bob')).statusCode, 200)
  t.equal((await hello()).statusCode, 401)
})

t.test('logs each charge and each denial', async t => {
  const lines = logged().filter(line => line.user === 'alice')
  t.match(lines, [
    { msg: 'quota charged', type: 'api_calls', amount: 1, remaining: 2, endpoint: '/hello' },
    { msg: 'quota charged', remaining: 1 },
    { msg: 'quota charged', remaining: 0 },
    { msg: 'quota denied', level: 40, type: 'api_calls', amount: 1, limit: 3, status: 402 }
  ])
  t.equal(lines.length, 4)
})
