import t from 'tap'
import { type Call, isAnswer, isProblem, operated } from '../fixtures/admin.ts'
import { auditOf } from '../fixtures/charges.ts'
import { ODD_USERS, rowsOf, tally } from '../fixtures/meter.ts'
import { logsOf, newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
const { quota } = app
const reset = (user: string, query = '', options: Call = {}) =>
  call(`/users/${encodeURIComponent(user)}/reset${query}`, { method: 'POST', ...options })

async function used(): Promise<string> {
  const user = newUser()
  for (const type of ['calls', 'tokens', 'storage']) await quota.consume(user, type, 5)
  return user
}

t.test('200: resets one flow to 0, and keeps its earlier usage in the log', async t => {
  const user = await used()
  const reply = await reset(user, '?quota_type=calls')
  isAnswer(t, reply)
  t.strictSame(reply.json(), {
    message: '1 quota was reset; earlier usage stays in the log.',
    user_id: user,
    quotas_reset: 1,
    quota_type: 'calls'
  })
  t.strictSame(await tally(quota, user), [0, 0, 10])
  t.strictSame(await tally(quota, user, 'tokens'), [5, 0, 995])
  t.equal((await logsOf(db, user)).length, 3)
})

t.test('200: resets every flow if no type is given, and no level', async t => {
  const user = await used()
  const reply = await reset(user)
  t.match(reply.json(), { quotas_reset: 3, quota_type: 'all' })
  t.strictSame(await tally(quota, user, 'tokens'), [0, 0, 1000])
  t.strictSame(await tally(quota, user, 'storage'), [5, 0, 95])
})

t.test('200: takes the parameters from the body, or from body and query if they agree', async t => {
  const user = await used()
  const body = { quota_type: 'tokens', reason: 'goodwill' }
  t.match((await reset(user, '', { body })).json(), { quotas_reset: 1, quota_type: 'tokens' })
  t.match((await reset(user, '?quota_type=tokens', { body })).json(), { quotas_reset: 1, quota_type: 'tokens' })
  t.match((await reset(user, '', { body: {} })).json(), { quotas_reset: 3, quota_type: 'all' })
})

t.test('200: records who, what and why in the audit log', async t => {
  const user = await used()
  await quota.reserve(user, { type: 'calls', amount: 2 })
  await reset(user, '?quota_type=calls', { body: { reason: 'Ticket 4711: "refund" 🙂' } })
  const [row, ...more] = await auditOf(db, user)
  t.strictSame(more, [])
  t.match(row, {
    actor: 'admin',
    action: 'reset',
    quota_type: 'calls',
    before: { used: 5, reserved: 2, period_start: String },
    after: { used: 0, reserved: 0, period_start: String },
    reason: 'Ticket 4711: "refund" 🙂',
    request_id: /^req-/
  })
})

t.test('200: works for user ids that are special in URLs, SQL, JSON or patterns', async t => {
  for (const user of ODD_USERS.filter(id => id.length <= 100)) {
    await quota.consume(user, 'calls', 2)
    t.match((await reset(user, '?quota_type=calls')).json(), { user_id: user, quotas_reset: 1 }, user)
    t.strictSame(await tally(quota, user), [0, 0, 10])
  }
})

t.test('400: names the invalid field, and resets nothing', async t => {
  const user = await used()
  const code = 'FST_QUOTA_INVALID_REQUEST'
  isProblem(t, await reset('a\nb'), 400, { code: 'FST_QUOTA_INVALID_USER', field: 'userId' })
  isProblem(t, await reset(user, '?quota_type='), 400, { code, field: 'quota_type' })
  isProblem(t, await reset(user, '?type=calls'), 400, { field: 'type' }, 'a misspelt parameter does not reset all')
  isProblem(t, await reset(user, '?quota_type=calls&quota_type=tokens'), 400, { field: 'quota_type' })
  isProblem(t, await reset(user, '', { body: { quotaType: 'calls' } }), 400, { field: 'quotaType' })
  isProblem(t, await reset(user, '', { body: { quota_type: 5 } }), 400, { field: 'quota_type' })
  isProblem(t, await reset(user, '', { body: { quota_type: null } }), 400, { field: 'quota_type' })
  isProblem(t, await reset(user, '', { body: [] }), 400, { field: 'body' })
  isProblem(t, await reset(user, '', { body: { reason: '' } }), 400, { code, field: 'reason' })
  isProblem(t, await reset(user, '', { body: { reason: 'x'.repeat(1001) } }), 400, { code, field: 'reason' })
  isProblem(t, await reset(user, '', { body: { reason: 'a\u0000b' } }), 400, { code, field: 'reason' })
  const both = await reset(user, '?quota_type=calls', { body: { quota_type: 'tokens' } })
  isProblem(t, both, 400, { code, field: 'quota_type' })
  t.strictSame(await tally(quota, user), [5, 0, 5], 'nothing was reset')
  t.strictSame(await auditOf(db, user), [])
})

t.test('400, 413 and 415: a body that is invalid or unsafe JSON, too large, or of another content type', async t => {
  const user = await used()
  const send = (type: string, payload: string) =>
    app.inject({
      method: 'POST',
      url: `/admin/quotas/users/${user}/reset`,
      headers: { 'x-admin-token': 'a token that only tests know', 'content-type': type },
      payload
    })
  isProblem(t, await send('application/json', '{"quota_type":'), 400, { field: 'body' })
  isProblem(t, await send('application/json', '{"__proto__": {"quota_type": "calls"}}'), 400, { field: 'body' })
  isProblem(t, await send('text/plain', 'calls'), 415, { field: 'body' })
  isProblem(t, await send('application/xml', '<calls/>'), 415, { field: 'body' })
  isProblem(t, await send('application/json', JSON.stringify({ reason: 'x'.repeat(2 ** 21) })), 413, { field: 'body' })
  t.strictSame(await tally(quota, user), [5, 0, 5])
})

t.test('403: without the token', async t => {
  const user = await used()
  isProblem(t, await reset(user, '', { token: null }), 403)
  t.strictSame(await tally(quota, user), [5, 0, 5])
})

t.test('404: a user who was never charged, and none is created', async t => {
  const user = newUser()
  isProblem(t, await reset(user), 404, { code: 'FST_QUOTA_UNKNOWN_USER' })
  t.strictSame(await rowsOf(db, user), {})
})

t.test('404: a quota type that nobody declared', async t => {
  isProblem(t, await reset(await used(), '?quota_type=nothing'), 404, { code: 'FST_QUOTA_UNKNOWN_TYPE' })
})

t.test('409: a level cannot be reset', async t => {
  const user = await used()
  isProblem(t, await reset(user, '?quota_type=storage'), 409, { code: 'FST_QUOTA_KIND_MISMATCH', field: 'quota_type' })
  t.strictSame(await tally(quota, user, 'storage'), [5, 0, 95])
})

t.test('503: the database does not answer', async t => {
  await db.close()
  isProblem(t, await reset('alice'), 503, { code: 'FST_QUOTA_STORE' })
})
