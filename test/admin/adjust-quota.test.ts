import Fastify from 'fastify'
import t from 'tap'
import quotaPlugin from '../../src/index.ts'
import { type Call, isAnswer, isProblem, operated, TOKEN } from '../fixtures/admin.ts'
import { auditOf } from '../fixtures/charges.ts'
import { ODD_USERS, rowsOf, tally } from '../fixtures/meter.ts'
import { byHeader, metered, newUser, QUOTAS } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
const { quota } = app
const adjust = (user: string, query = '', options: Call = {}) =>
  call(`/users/${encodeURIComponent(user)}/adjust${query}`, { method: 'PUT', ...options })
const code = 'FST_QUOTA_INVALID_REQUEST'

/** With a body as it is written. */
const adjustBy = (user: string, payload: string) =>
  app.inject({
    method: 'PUT',
    url: `/admin/quotas/users/${user}/adjust?quota_type=calls`,
    headers: { 'x-admin-token': TOKEN, 'content-type': 'application/json' },
    payload
  })

async function used(): Promise<string> {
  const user = newUser()
  await quota.consume(user, 'calls', 6)
  return user
}

t.test('200: records no request id in the audit log when genReqId returns none', async t => {
  // As `request => request.headers['x-request-id']` returns when that header is missing.
  const app = Fastify({ genReqId: () => undefined as unknown as string })
  t.teardown(() => app.close())
  await app.register(quotaPlugin, {
    connection: db.orm,
    quotas: QUOTAS,
    identify: byHeader,
    self: false,
    admin: { token: TOKEN }
  })
  const user = await used()
  const reply = await app.inject({
    method: 'PUT',
    url: `/admin/quotas/users/${user}/adjust?quota_type=calls&new_limit=7`,
    headers: { 'x-admin-token': TOKEN }
  })
  t.equal(reply.statusCode, 200)
  t.strictSame(await db.query('SELECT request_id FROM quota_audit_logs WHERE user_id = $1', [user]), [
    { request_id: null }
  ])
})

t.test('200: sets the new limit, and answers with what remains of it', async t => {
  const user = await used()
  const reply = await adjust(user, '?quota_type=calls&new_limit=500')
  isAnswer(t, reply)
  t.strictSame(reply.json(), {
    message: "The limit of 'calls' is now 500.",
    user_id: user,
    quota_type: 'calls',
    new_limit: 500,
    current_usage: 6,
    remaining: 494
  })
  t.strictSame(await tally(quota, user), [6, 0, 494])
})

t.test('200: accepts -1 (unlimited), 0, a limit below what is used, and the largest safe integer', async t => {
  const user = await used()
  const max = Number.MAX_SAFE_INTEGER
  for (const [limit, remaining] of [
    [-1, -1],
    [0, 0],
    [5, 0],
    [max, max - 6]
  ]) {
    const reply = await adjust(user, '', { body: { quota_type: 'calls', new_limit: limit } })
    t.match(reply.json(), { new_limit: limit, current_usage: 6, remaining })
    t.equal((await quota.check(user, 'calls')).limit, limit)
  }
})

t.test('200: takes each parameter from the query or the body, or from both if they agree', async t => {
  const user = await used()
  const body = { new_limit: 7, reason: 'goodwill' }
  t.match((await adjust(user, '?quota_type=calls', { body })).json(), { new_limit: 7, remaining: 1 })
  t.match((await adjust(user, '?quota_type=calls&new_limit=7', { body })).json(), { new_limit: 7 })
})

t.test('200: adjusts a type that was declared after the user was created', async t => {
  const user = await used()
  const quotas = { newer: { limit: 1 } }
  const app = await metered(t, db, () => {}, { quotas, admin: { token: TOKEN } })
  const reply = await app.inject({
    method: 'PUT',
    url: `/admin/quotas/users/${user}/adjust?quota_type=newer&new_limit=9`,
    headers: { 'x-admin-token': TOKEN }
  })
  t.match(reply.json(), { current_usage: 0, remaining: 9 })
})

t.test('200: records who, what and why in the audit log', async t => {
  const user = await used()
  await adjust(user, '?quota_type=calls&new_limit=500&reason=Ticket%204711')
  await adjust(user, '?quota_type=calls&new_limit=-1')
  const [first, second, ...more] = await auditOf(db, user)
  t.strictSame(more, [])
  t.match(first, {
    actor: 'admin',
    action: 'adjust',
    quota_type: 'calls',
    before: { limit: 10 },
    after: { limit: 500 },
    reason: 'Ticket 4711',
    request_id: /^req-/
  })
  t.match(second, { before: { limit: 500 }, after: { limit: -1 }, reason: null })
})

t.test('200: works for user ids that are special in URLs, SQL, JSON or patterns', async t => {
  for (const user of ODD_USERS.filter(id => id.length <= 100)) {
    await quota.consume(user, 'calls', 2)
    const reply = await adjust(user, '?quota_type=calls&new_limit=3')
    t.match(reply.json(), { user_id: user, current_usage: 2, remaining: 1 }, user)
  }
})

t.test('400: names the invalid field, and adjusts nothing', async t => {
  const user = await used()
  isProblem(t, await adjust('a\nb', '?quota_type=calls&new_limit=5'), 400, {
    code: 'FST_QUOTA_INVALID_USER',
    field: 'userId'
  })
  isProblem(t, await adjust(user, '?new_limit=5'), 400, { code, field: 'quota_type' })
  isProblem(t, await adjust(user, '?quota_type=calls'), 400, { code, field: 'new_limit' })
  isProblem(t, await adjust(user, '', { body: {} }), 400, { code, field: 'quota_type' })
  isProblem(t, await adjust(user, '?quota_type=calls&newLimit=5'), 400, { field: 'newLimit' })
  isProblem(t, await adjust(user, '?quota_type=calls&new_limit=5&new_limit=6'), 400, { field: 'new_limit' })
  const both = await adjust(user, '?quota_type=calls&new_limit=5', { body: { new_limit: 6 } })
  isProblem(t, both, 400, { code, field: 'new_limit' })
  const types = await adjust(user, '?quota_type=calls&new_limit=5', { body: { quota_type: 'tokens' } })
  isProblem(t, types, 400, { code, field: 'quota_type' })
  const reason = 'x'.repeat(1_000)
  t.equal((await adjust(await used(), '', { body: { quota_type: 'calls', new_limit: 10, reason } })).statusCode, 200)
  const long = await adjust(user, '', { body: { quota_type: 'calls', new_limit: 5, reason: `${reason}x` } })
  isProblem(t, long, 400, { code, field: 'reason' })
  for (const text of [
    '',
    'abc',
    'NaN',
    'Infinity',
    '1e3',
    '0x10',
    '%205',
    '5%20',
    '+5',
    '--1',
    '1,5',
    'null',
    '٣',
    '1_000'
  ])
    isProblem(t, await adjust(user, `?quota_type=calls&new_limit=${text}`), 400, { code, field: 'new_limit' }, text)
  for (const value of ['5', null, true, [5], {}])
    isProblem(
      t,
      await adjust(user, '', { body: { quota_type: 'calls', new_limit: value } }),
      400,
      { field: 'new_limit' },
      JSON.stringify(value)
    )
  t.strictSame(await tally(quota, user), [6, 0, 4], 'nothing was adjusted')
  t.strictSame(await auditOf(db, user), [])
})

t.test('200: accepts one limit written differently in the query and the body', async t => {
  const user = newUser()
  await app.quota.consume(user, 'calls')
  const both = (limit: string, new_limit: unknown) =>
    call(`/users/${user}/adjust?quota_type=calls&new_limit=${limit}`, { method: 'PUT', body: { new_limit } })
  for (const written of ['5.0', '05', '5']) t.match((await both(written, 5)).json(), { new_limit: 5 }, written)
  isProblem(t, await both('5.0', 6), 400, { code: 'FST_QUOTA_INVALID_REQUEST', field: 'new_limit' })
})

t.test('403: without the token', async t => {
  const user = await used()
  isProblem(t, await adjust(user, '?quota_type=calls&new_limit=500', { token: 'wrong' }), 403)
  t.strictSame(await tally(quota, user), [6, 0, 4])
})

t.test('404: a user who was never charged, and none is created', async t => {
  const user = newUser()
  isProblem(t, await adjust(user, '?quota_type=calls&new_limit=5'), 404, { code: 'FST_QUOTA_UNKNOWN_USER' })
  t.strictSame(await rowsOf(db, user), {})
})

t.test('404: a quota type that nobody declared', async t => {
  const user = await used()
  isProblem(t, await adjust(user, '?quota_type=nothing&new_limit=5'), 404, { code: 'FST_QUOTA_UNKNOWN_TYPE' })
})

t.test('422: a number that cannot be a limit', async t => {
  const user = await used()
  const invalid = { code: 'FST_QUOTA_INVALID_LIMIT', field: 'new_limit' }
  for (const limit of ['-2', '1.5', '9007199254740992', '9'.repeat(20), '-9007199254740991', `-1.${'0'.repeat(20)}1`])
    isProblem(t, await adjust(user, `?quota_type=calls&new_limit=${limit}`), 422, invalid, limit)
  for (const limit of [-2, 1.5, 2 ** 53, 1e300])
    isProblem(t, await adjust(user, '', { body: { quota_type: 'calls', new_limit: limit } }), 422, invalid, `${limit}`)
  t.strictSame(await tally(quota, user), [6, 0, 4])
})

t.test('422: a numeral of the body that JSON.parse would round to a limit', async t => {
  const user = await used()
  const invalid = { code: 'FST_QUOTA_INVALID_LIMIT', field: 'new_limit' }
  for (const limit of [
    '-1.00000000000000000001',
    '0.99999999999999999999',
    '9007199254740990.6',
    '9007199254740991.1',
    '99.999999999999999999e-1',
    '1e-400'
  ])
    isProblem(t, await adjustBy(user, `{"reason": "a \\"b\\"", "new_limit": ${limit}}`), 422, invalid, limit)
  const { detail } = (await adjustBy(user, '{"new_limit":-1.00000000000000000001}')).json()
  t.match(detail, / but is -1\.00000000000000000001\.$/)
  t.strictSame(await auditOf(db, user), [])
})

t.test('200: accepts each way to write a whole number in JSON', async t => {
  const user = await used()
  for (const [written, limit] of [
    ['50.0', 50],
    ['5e1', 50],
    ['5.10E+1', 51],
    ['5200e-2', 52],
    ['-1.0', -1],
    ['0.0', 0],
    ['9007199254740991', 9_007_199_254_740_991]
  ] as const)
    t.match((await adjustBy(user, `{ "new_limit" : ${written} }`)).json(), { new_limit: limit }, written)
  const quoting = '"new_limit": 0.99999999999999999999, "reason":'
  const reply = await adjustBy(user, JSON.stringify({ reason: quoting, new_limit: 5 }))
  t.match(reply.json(), { new_limit: 5 }, 'what a text says does not count')
})

t.test('400: a member that the body has twice, however its key is written', async t => {
  const user = await used()
  const twice = { code, field: 'new_limit' }
  isProblem(t, await adjustBy(user, '{"new_limit":5,"new_limit":5000}'), 400, twice)
  isProblem(t, await adjustBy(user, '{"new_limit":5,"new_limit":5}'), 400, twice)
  isProblem(t, await adjustBy(user, '{"new_limit":5,"reason":"x","new\\u005flimit":5000}'), 400, twice)
  isProblem(t, await adjustBy(user, '{"reason":"a","new_limit":5,"reason":"b"}'), 400, { code, field: 'reason' })
  t.strictSame(await auditOf(db, user), [])
})

t.test(
  '409: a trigger of the application refuses the change; its message is in the log, but not in the answer',
  async t => {
    const user = await used()
    await db.query(
      `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'contract 4711'; END $$`
    )
    t.teardown(() => db.query('DROP FUNCTION refuse CASCADE'))
    await db.query('CREATE TRIGGER refuse BEFORE UPDATE ON quota_limits FOR EACH ROW EXECUTE FUNCTION refuse()')
    const logged = t.capture(app.log, 'error')
    const refused = await adjust(user, '?quota_type=calls&new_limit=500')
    isProblem(t, refused, 409, { code: 'FST_QUOTA_CHANGE_REFUSED' })
    t.match(
      logged().map(({ args }) => args[0]),
      [{ err: { cause: { cause: { message: /contract 4711/ } } } }]
    )
    t.match(refused.json().detail, 'SQLSTATE P0001')
    t.notMatch(refused.body, /4711/)
    t.strictSame(await tally(quota, user), [6, 0, 4])
    t.strictSame(await auditOf(db, user), [])
  }
)

t.test('503: the database does not answer', async t => {
  await db.close()
  const reply = await adjust('alice', '?quota_type=calls&new_limit=5')
  isProblem(t, reply, 503, { code: 'FST_QUOTA_STORE' })
  t.match(reply.json().detail, 'Check whether the change was made')
})
