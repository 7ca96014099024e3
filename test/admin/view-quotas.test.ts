import t from 'tap'
import { isAnswer, isProblem, operated } from '../fixtures/admin.ts'
import { ODD_USERS } from '../fixtures/meter.ts'
import { newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
const view = (user: string) => call(`/users/${encodeURIComponent(user)}`)

t.test('200: every quota of the user, as it is now', async t => {
  const user = newUser()
  await app.quota.consume(user, 'calls', 4)
  await app.quota.reserve(user, { type: 'calls', amount: 1 })
  await app.quota.consume(user, 'storage', 33)
  const reply = await view(user)
  isAnswer(t, reply)
  const { user_id, total_quotas, quotas } = reply.json()
  t.equal(user_id, user)
  t.equal(total_quotas, 4)
  const [calls, free, storage, tokens] = quotas
  t.match(calls, { period_start: /^\d{4}-\d\d-01T00:00:00.000Z$/, resets_at: /^\d{4}-\d\d-01T00:00:00.000Z$/ })
  const { period_start: _, resets_at: __, ...figures } = calls
  t.strictSame(figures, {
    type_key: 'calls',
    name: 'calls',
    unit: 'call',
    kind: 'flow',
    limit: 10,
    used: 4,
    reserved: 1,
    remaining: 5,
    usage_percent: 50
  })
  t.match(free, { type_key: 'free', limit: -1, remaining: -1, usage_percent: null })
  t.match(storage, { type_key: 'storage', unit: 'byte', kind: 'level', used: 33, usage_percent: 33, resets_at: null })
  t.match(tokens, { type_key: 'tokens', used: 0, limit: 1000, usage_percent: 0 })
})

t.test('200: also for HEAD, and for user ids that are special in URLs, SQL, JSON or patterns', async t => {
  for (const user of ODD_USERS.filter(id => id.length <= 100)) {
    await app.quota.consume(user, 'calls', 2)
    const reply = await view(user)
    isAnswer(t, reply)
    t.match(reply.json(), { user_id: user, quotas: [{ used: 2 }] }, user)
  }
  t.equal((await call('/users/O%27Brien', { method: 'HEAD' })).statusCode, 200)
})

t.test('400: an invalid user id, or an unknown parameter', async t => {
  const code = 'FST_QUOTA_INVALID_USER'
  for (const user of ['%00', 'al%0Aice', '%7F', '%C2%85'])
    isProblem(t, await call(`/users/${user}`), 400, { code, field: 'userId' }, user)
  isProblem(t, await call('/users/alice?verbose=1'), 400, { field: 'verbose' })
})

t.test('403: without the token', async t => {
  isProblem(t, await call('/users/alice', { token: null }), 403)
})

t.test('404: a user who was never charged', async t => {
  isProblem(t, await view(newUser()), 404, { code: 'FST_QUOTA_UNKNOWN_USER' })
})

t.test('503: the database does not answer', async t => {
  await db.close()
  const reply = await view('alice')
  isProblem(t, reply, 503, { code: 'FST_QUOTA_STORE' })
  t.equal(reply.headers['retry-after'], '2')
  t.notMatch(reply.body, /PGlite/)
})
