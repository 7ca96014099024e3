import t from 'tap'
import { operated, TOKEN } from '../fixtures/admin.ts'

// The requests that scripts for the replaced system send, unchanged: a token, a URL, and no body.
const quotas = { api_calls_l3_detect: { limit: 200 }, api_calls_full_process: { limit: 100 } }
const { app } = await operated(t, { quotas })
const curl = (method: 'GET' | 'POST' | 'PUT', url: string) =>
  app.inject({ method, url, headers: { 'X-Admin-Token': TOKEN, Accept: '*/*', 'User-Agent': 'curl/7.88.1' } })

await app.quota.consume('alice', 'api_calls_l3_detect', 3, { endpoint: '/l3_detect/:patient/:date' })

t.test('GET /admin/quotas/users/alice', async t => {
  const reply = await curl('GET', '/admin/quotas/users/alice')
  t.equal(reply.statusCode, 200)
  t.match(reply.json(), {
    user_id: 'alice',
    total_quotas: 2,
    quotas: [{ type_key: 'api_calls_full_process' }, { type_key: 'api_calls_l3_detect', used: 3, remaining: 197 }]
  })
})

t.test('GET /admin/quotas/usage-logs?user_id=alice&limit=50', async t => {
  const reply = await curl('GET', '/admin/quotas/usage-logs?user_id=alice&limit=50')
  t.equal(reply.statusCode, 200)
  t.match(reply.json().usage_logs, [
    { user_id: 'alice', quota_type: 'api_calls_l3_detect', amount: 3, endpoint: '/l3_detect/:patient/:date' }
  ])
})

t.test('GET /admin/quotas/statistics/api_calls_l3_detect?days=30', async t => {
  const reply = await curl('GET', '/admin/quotas/statistics/api_calls_l3_detect?days=30')
  t.equal(reply.statusCode, 200)
  t.match(reply.json(), {
    quota_type: 'api_calls_l3_detect',
    days: 30,
    total_usage: 3,
    total_calls: 1,
    unique_users: 1,
    avg_usage_per_call: 3,
    peak_usage_date: /^\d{4}-\d\d-\d\d$/
  })
})

t.test('POST /admin/quotas/users/alice/reset?quota_type=api_calls_l3_detect', async t => {
  const reply = await curl('POST', '/admin/quotas/users/alice/reset?quota_type=api_calls_l3_detect')
  t.equal(reply.statusCode, 200)
  t.match(reply.json(), { message: String, user_id: 'alice', quotas_reset: 1, quota_type: 'api_calls_l3_detect' })
  t.equal(await app.quota.remaining('alice', 'api_calls_l3_detect'), 200)
})

t.test('POST /admin/quotas/users/alice/reset', async t => {
  const reply = await curl('POST', '/admin/quotas/users/alice/reset')
  t.match(reply.json(), { user_id: 'alice', quotas_reset: 2, quota_type: 'all' })
})

t.test('PUT /admin/quotas/users/alice/adjust?quota_type=api_calls_l3_detect&new_limit=500, and -1', async t => {
  const adjust = (limit: number) =>
    curl('PUT', `/admin/quotas/users/alice/adjust?quota_type=api_calls_l3_detect&new_limit=${limit}`)
  t.match((await adjust(500)).json(), {
    message: String,
    user_id: 'alice',
    quota_type: 'api_calls_l3_detect',
    new_limit: 500,
    current_usage: 0,
    remaining: 500
  })
  t.match((await adjust(-1)).json(), { new_limit: -1, remaining: -1 })
  t.equal(await app.quota.remaining('alice', 'api_calls_l3_detect'), Number.POSITIVE_INFINITY)
})

t.test('answers each of them with 403 without the token', async t => {
  for (const [method, url] of [
    ['GET', 'users/alice'],
    ['GET', 'usage-logs?user_id=alice&limit=50'],
    ['GET', 'statistics/api_calls_l3_detect?days=30'],
    ['POST', 'users/alice/reset'],
    ['PUT', 'users/alice/adjust?quota_type=api_calls_l3_detect&new_limit=-1']
  ] as const)
    t.equal((await app.inject({ method, url: `/admin/quotas/${url}` })).statusCode, 403, url)
})
