import { createHmac } from 'node:crypto'
import t from 'tap'
import { example } from '../fixtures/example.ts'

process.env.JWT_SECRET = 'a secret of the tests, long enough to sign with'
const { app, logged } = await example(t, 'jwt')
const ask = (url: string, token?: string) =>
  app.inject({ url, headers: token === undefined ? {} : { authorization: `Bearer ${token}` } })

t.test("charges the token's sub", async t => {
  const reply = await ask('/api/time', app.jwt.sign({ sub: 'alice' }))
  t.equal(reply.statusCode, 200)
  t.match(reply.headers, { 'x-quota-type': 'api_calls', 'x-quota-limit': '100', 'x-quota-used': '1' })
  t.equal((await app.quota.check('alice', 'api_calls')).used, 1)
  t.match(
    logged().find(line => line.msg === 'quota charged'),
    { user: 'alice', endpoint: '/api/time' }
  )
})

t.test('answers 401 without a token', async t => {
  const reply = await ask('/api/time')
  t.equal(reply.statusCode, 401)
  t.equal(reply.headers['www-authenticate'], 'Bearer')
  t.match(reply.json(), { status: 401, code: 'FST_QUOTA_UNAUTHORIZED' })
})

t.test('answers 401 to a token that is expired, forged, unsigned or without a sub, and charges nothing', async t => {
  const [header, claims] = app.jwt.sign({ sub: 'alice' }).split('.') as [string, string]
  const forged = createHmac('sha256', 'another secret').update(`${header}.${claims}`).digest('base64url')
  const none = Buffer.from('{"alg":"none","typ":"JWT"}').toString('base64url')
  const tokens = {
    expired: app.jwt.sign({ sub: 'alice' }, { expiresIn: '-1s' }),
    forged: `${header}.${claims}.${forged}`,
    unsigned: `${none}.${claims}.`,
    nobody: app.jwt.sign({ name: 'alice' })
  }
  for (const [name, token] of Object.entries(tokens)) t.equal((await ask('/api/time', token)).statusCode, 401, name)
  t.equal((await app.quota.check('alice', 'api_calls')).used, 1)
})

t.test('shows users their own quotas, and serves an unmetered route to everybody', async t => {
  const mine = await ask('/quotas/me', app.jwt.sign({ sub: 'alice' }))
  t.match(mine.json(), {
    user_id: 'alice',
    total_quotas: 1,
    quotas: [{ type_key: 'api_calls', name: 'API calls', used: 1, remaining: 99, usage_percent: 1 }]
  })
  const about = await ask('/about')
  t.equal(about.statusCode, 200)
  t.notHas(about.headers, { 'x-quota-type': /./ })
})
