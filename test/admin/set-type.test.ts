import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import quotaPlugin from '../../src/index.ts'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { viewQuotas } from '../../src/store/operator/view-quotas.ts'
import { type Call, isAnswer, isProblem, operated, TOKEN } from '../fixtures/admin.ts'
import { auditOf } from '../fixtures/charges.ts'
import { figures, tally } from '../fixtures/meter.ts'
import { byHeader, metered, newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
const { quota } = app
const code = 'FST_QUOTA_INVALID_REQUEST'
const DAY_MS = 86_400_000
const set = (key: string, body: unknown, options: Call = {}) =>
  call(`/quota-types/${key}`, { method: 'PUT', body, ...options })

let keys = 0
/** A key that no type has yet. */
const newKey = () => `type_${++keys}`

type Entry = Record<string, unknown> & { type_key: string; created_at: string; updated_at: string }
const all = async () => (await call('/quota-types')).json().quota_types as Entry[]
const typeOf = async (key: string) => (await all()).find(type => type.type_key === key)
const auditOfType = async (key: string) => (await auditOf(db, '')).filter(row => row.quota_type === key)

async function created(body: Record<string, unknown> = { default_limit: 5 }): Promise<string> {
  const key = newKey()
  const { statusCode, body: text } = await set(key, body)
  if (statusCode !== 201) throw new Error(text)
  return key
}

t.test('201: creates a type with defaults for the fields left out', async t => {
  const key = newKey()
  const reply = await set(key, { default_limit: 5 })
  t.equal(reply.statusCode, 201)
  t.equal(reply.headers['content-type'], 'application/json; charset=utf-8')
  t.equal(reply.headers['cache-control'], 'no-store')
  const { created_at, updated_at, ...rest } = reply.json()
  t.strictSame(rest, {
    type_key: key,
    name: key,
    description: null,
    unit: 'call',
    kind: 'flow',
    period: 'month',
    default_limit: 5,
    is_active: true
  })
  t.equal(created_at, updated_at)
  t.strictSame(await typeOf(key), reply.json())
})

t.test('201: creates a type with every field that is given', async t => {
  const flow = {
    name: 'L3 <detection> "山田" 🙂',
    description: "It's 100 % new; --",
    unit: 'scan',
    kind: 'flow',
    period: 'hour',
    default_limit: Number.MAX_SAFE_INTEGER,
    is_active: false
  }
  const level = { kind: 'level', unit: 'byte', default_limit: -1 }
  t.match((await set(newKey(), flow)).json(), flow)
  t.match((await set(newKey(), level)).json(), { ...level, period: 'never' })
  t.match((await set(newKey(), { ...level, period: 'never' })).json(), { ...level, period: 'never' })
  for (const period of ['hour', 'day', 'week', 'month', 'year', 'never'])
    t.match((await set(newKey(), { period, default_limit: 0 })).json(), { period, default_limit: 0 })
})

t.test('201: accepts the shortest and the longest keys', async t => {
  for (const key of ['a', 'a0_', `a${'_'.repeat(99)}`]) {
    const reply = await set(key, { default_limit: 1 })
    t.match([reply.statusCode, reply.json().type_key], [201, key])
  }
})

t.test('201: a new type can be charged at once in this process, even to existing users', async t => {
  const user = newUser()
  await quota.consume(user, 'calls', 1)
  const key = newKey()
  // So that this process has already looked for it, and not found it.
  await t.rejects(quota.consume(user, key as 'calls', 1), { code: 'FST_QUOTA_UNKNOWN_TYPE' })
  t.equal((await set(key, { default_limit: 3 })).statusCode, 201)
  t.strictSame(figures(await quota.consume(user, key as 'calls', 2)), [2, 0, 1])
  await t.rejects(quota.consume(user, key as 'calls', 2), { code: 'FST_QUOTA_EXCEEDED' })
  t.strictSame(await tally(quota, newUser(), key), [0, 0, 3])
  const level = await created({ default_limit: 10, kind: 'level' })
  t.strictSame(figures(await quota.setUsage(user, level as 'calls', 4)), [4, 0, 6])
})

t.test('201: one of many concurrent requests creates the type, and the others update it', async t => {
  const key = newKey()
  const replies = await Promise.all(Array.from({ length: 8 }, (_, i) => set(key, { default_limit: i })))
  t.strictSame(replies.map(({ statusCode }) => statusCode).sort(), [...Array(7).fill(200), 201])
  t.strictSame(
    (await auditOfType(key)).map(({ action }) => action).sort(),
    ['create_type', ...Array(7).fill('update_type')].sort()
  )
})

t.test('200: changes only the fields that are given', async t => {
  const before = { name: 'Scans', description: 'All of them', unit: 'scan', period: 'week', default_limit: 7 }
  const key = await created(before)
  let is: Record<string, unknown> = { ...before, kind: 'flow', is_active: true }
  for (const change of [
    { name: 'Scans, all' },
    { description: null },
    { description: 'Again' },
    { unit: 'page' },
    { period: 'year' },
    { default_limit: -1 },
    { default_limit: 0 },
    { is_active: false },
    { name: 'N', unit: 'u', is_active: true },
    { kind: 'flow' }
  ]) {
    const reply = await set(key, change)
    isAnswer(t, reply)
    is = { ...is, ...change }
    const { type_key: _, created_at, updated_at, ...rest } = reply.json()
    t.strictSame(rest, is, JSON.stringify(change))
    t.ok(updated_at >= created_at)
  }
  t.strictSame((await all()).filter(({ type_key }) => type_key === key).length, 1)
})

t.test('200: a new default limit applies to new users, while existing users keep theirs', async t => {
  const [known, fresh] = [newUser(), newUser()]
  const key = (await created({ default_limit: 5 })) as 'calls'
  await quota.consume(known, key, 4)
  await set(key, { default_limit: 50 })
  t.strictSame(await tally(quota, known, key), [4, 0, 1])
  t.strictSame(figures(await quota.consume(fresh, key, 4)), [4, 0, 46])
})

t.test('200: a new period length leaves a running period alone, but ends one that would never end', async t => {
  const [user, idle] = [newUser(), newUser()]
  const monthly = (await created({ default_limit: 10, period: 'month' })) as 'calls'
  const endless = (await created({ default_limit: 10, period: 'never' })) as 'calls'
  const { resetsAt } = await quota.consume(user, monthly, 8)
  t.equal((await quota.consume(user, endless, 8)).resetsAt, null)
  const held = await quota.reserve(user, { type: endless, amount: 2 })
  await quota.consume(idle, 'calls', 1)
  await set(monthly, { period: 'day' })
  t.strictSame((await quota.consume(user, monthly, 1)).resetsAt, resetsAt)
  const later = new Date(resetsAt!.getTime() + 1)
  t.strictSame((await viewQuotas(db, user, monthly, later)).quotas[0]!.resetsAt, new Date(resetsAt!.getTime() + DAY_MS))
  await set(endless, { period: 'month' })
  const now = await quota.consume(user, endless, 9)
  t.strictSame(figures(now), [9, 0, 1])
  t.strictSame(now.resetsAt, (await quota.check(newUser(), endless)).resetsAt)
  await held.commit()
  t.strictSame(await tally(quota, user, endless), [9, 0, 1], 'the reservation belongs to the earlier period')
  await set(endless, { period: 'never' })
  t.strictSame((await quota.check(user, endless)).resetsAt, now.resetsAt)
})

t.test('200: accepts the kind and period that a level already has, and keeps its usage', async t => {
  const key = await created({ default_limit: 10, kind: 'level' })
  await quota.consume('level', key as 'calls', 4)
  t.match((await set(key, { kind: 'level', period: 'never', default_limit: 20 })).json(), { period: 'never' })
  t.strictSame(await tally(quota, 'level', key), [4, 0, 6])
})

t.test('200 and 201: records who, what and why in the audit log', async t => {
  const key = newKey()
  await set(key, { default_limit: 5, reason: 'Ticket 4711: "new" 🙂' })
  await set(key, { description: 'x', default_limit: 6, is_active: false })
  await set(key, { kind: 'flow', reason: 'nothing changes' })
  const [first, second, third, ...more] = await auditOfType(key)
  t.strictSame(more, [])
  const was = {
    name: key,
    description: null,
    unit: 'call',
    kind: 'flow',
    period: 'month',
    default_limit: 5,
    is_active: true
  }
  const is = { ...was, description: 'x', default_limit: 6, is_active: false }
  const common = { actor: 'admin', request_id: /^req-/ }
  t.match(first, { ...common, action: 'create_type', reason: 'Ticket 4711: "new" 🙂' })
  t.match(second, { ...common, action: 'update_type', reason: null })
  t.match(third, { ...common, action: 'update_type', reason: 'nothing changes' })
  t.strictSame(
    [first, second, third].map(row => [row?.before, row?.after]),
    [
      [null, was],
      [was, is],
      [is, is]
    ]
  )
})

t.test('200: a change here survives a restart, except in fields whose declaration has changed', async t => {
  const key = newKey()
  const declare = (declaration: { limit: number; name?: string }) => declareTypes(db, { [key]: declaration })
  await declare({ limit: 10, name: 'Scans' })
  const changed = { name: "The operator's", default_limit: 500, unit: 'scan', description: 'mine', is_active: false }
  t.equal((await set(key, changed)).statusCode, 200)
  await declare({ limit: 10, name: 'Scans' })
  t.match(await typeOf(key), changed)
  await declare({ limit: 20, name: 'Scans' })
  t.match(await typeOf(key), { ...changed, default_limit: 20 })
  await declare({ limit: 20, name: 'All scans' })
  t.match(await typeOf(key), { ...changed, default_limit: 20, name: 'All scans' })
})

t.test('200: a change here survives the start of another application with the same declaration', async t => {
  t.equal((await set('tokens', { default_limit: 5, period: 'hour' })).statusCode, 200)
  const quotas = { tokens: { limit: 1000, period: 'day', unit: 'token' } } as const
  const again = await metered(t, db, () => {}, { quotas, admin: { token: TOKEN } })
  t.equal(await again.quota.remaining(newUser(), 'tokens'), 5)
  const changed = await metered(t, db, () => {}, { quotas: { tokens: { ...quotas.tokens, limit: 7 } } })
  t.equal(await changed.quota.remaining(newUser(), 'tokens'), 7)
  t.match(await typeOf('tokens'), { default_limit: 7, period: 'hour' })
})

t.test('400: names the invalid field, and changes nothing', async t => {
  const key = await created()
  const before = await typeOf(key)
  const text = ['', 'x'.repeat(1001), 'a\u0000b', '\ud800']
  const wrong: Record<string, unknown[]> = {
    name: [...text, ' ', '\n\t', 'two\nlines'],
    unit: [...text, ' ', '\u001b[2Jcall'],
    description: text,
    kind: ['', 'Flow', 'counter', 'null'],
    period: ['', 'Month', 'monthly', 'minute', 'P1M'],
    reason: text
  }
  for (const [field, values] of Object.entries(wrong)) {
    for (const value of values)
      isProblem(
        t,
        await set(key, { default_limit: 9, [field]: value }),
        400,
        { code, field },
        `${field} ${JSON.stringify(value).slice(0, 30)}`
      )
    for (const value of [5, true, [], {}])
      isProblem(t, await set(key, { default_limit: 9, [field]: value }), 400, { field }, `${field} ${value}`)
    if (field !== 'description') isProblem(t, await set(key, { default_limit: 9, [field]: null }), 400, { field })
  }
  for (const value of ['5', '', null, true, [5], {}])
    isProblem(t, await set(key, { default_limit: value }), 400, { field: 'default_limit' }, JSON.stringify(value))
  for (const value of ['true', 1, 0, null, [], {}])
    isProblem(t, await set(key, { is_active: value }), 400, { field: 'is_active' }, JSON.stringify(value))
  t.strictSame(await typeOf(key), before, 'nothing was changed')
  t.equal((await auditOfType(key)).length, 1)
})

t.test('400: an invalid key, and no type is created', async t => {
  const before = await all()
  for (const key of [
    'UPPER',
    'a-b',
    '0a',
    '_a',
    'a.b',
    'a%2Fb',
    '%2F',
    '',
    '..%2Fusers',
    '%00',
    'a%0A',
    '%E5%B1%B1',
    'a%20'
  ])
    isProblem(t, await set(key, { default_limit: 5 }), 400, { code, field: 'key' }, key)
  t.strictSame(await all(), before)
})

t.test("400: a key of 101 characters if Fastify's maxParamLength allows it, and otherwise 414", async t => {
  // It is 100 by default: Fastify itself answers a longer parameter with 414, before any route sees it.
  const lenient = Fastify({ routerOptions: { maxParamLength: 510 } })
  t.teardown(() => lenient.close())
  await lenient.register(quotaPlugin, { connection: db.orm, identify: byHeader, admin: { token: TOKEN } })
  const ask = (to: FastifyInstance) =>
    to.inject({
      method: 'PUT',
      url: `/admin/quotas/quota-types/${'a'.repeat(101)}`,
      headers: { 'x-admin-token': TOKEN },
      payload: { default_limit: 5 }
    })
  isProblem(t, await ask(lenient), 400, { code, field: 'key' })
  t.equal((await ask(app)).statusCode, 414)
  t.equal(await typeOf('a'.repeat(101)), undefined)
})

t.test('400: nothing to change, an unknown field, or a field in the wrong place', async t => {
  const key = await created()
  const before = await typeOf(key)
  isProblem(t, await set(key, {}), 400, { code, field: 'body' })
  isProblem(t, await set(key, { reason: 'why not' }), 400, { code, field: 'body' })
  isProblem(t, await set(newKey(), {}), 400, { code, field: 'body' })
  isProblem(t, await set(key, undefined), 400, { field: 'body' })
  isProblem(t, await set(key, []), 400, { field: 'body' })
  isProblem(t, await set(key, { default_limit: 9, limit: 9 }), 400, { field: 'limit' })
  isProblem(t, await set(key, { defaultLimit: 9 }), 400, { field: 'defaultLimit' })
  isProblem(t, await set(key, { type_key: 'other', default_limit: 9 }), 400, { field: 'type_key' })
  isProblem(t, await set(`${key}?default_limit=9`, { name: 'x' }), 400, { field: 'default_limit' })
  isProblem(t, await set(`${key}?reason=x`, { default_limit: 9 }), 400, { field: 'reason' })
  t.strictSame(await typeOf(key), before)
})

t.test('400: a new type without a limit, or a level with a period', async t => {
  const key = newKey()
  isProblem(t, await set(key, { name: 'Scans', is_active: true }), 400, { code, field: 'default_limit' })
  isProblem(t, await set(key, { kind: 'level' }), 400, { code, field: 'default_limit' })
  for (const period of ['month', 'hour']) {
    const body = { kind: 'level', period, default_limit: 5 }
    isProblem(t, await set(key, body), 400, { code, field: 'period' })
    isProblem(t, await set('storage', { period }), 400, { code, field: 'period' })
  }
  t.equal(await typeOf(key), undefined)
  t.match(await typeOf('storage'), { period: 'never' })
  t.strictSame(await auditOfType(key), [])
})

t.test(
  '400, 413, 415 and 422: a body that is invalid, unsafe or ambiguous JSON, too large, or of another content type',
  async t => {
    const key = await created()
    const send = (type: string, payload: string) =>
      app.inject({
        method: 'PUT',
        url: `/admin/quotas/quota-types/${key}`,
        headers: { 'x-admin-token': TOKEN, 'content-type': type },
        payload
      })
    const json = 'application/json'
    isProblem(t, await send(json, '{"default_limit":'), 400, { field: 'body' })
    isProblem(t, await send(json, '{"default_limit": NaN}'), 400, { field: 'body' })
    isProblem(t, await send(json, '{"default_limit": 9, "__proto__": {}}'), 400, { field: 'body' })
    isProblem(t, await send(json, '{"default_limit": 9, "default_limit": 90}'), 400, { field: 'default_limit' })
    const rounded = { code: 'FST_QUOTA_INVALID_LIMIT', field: 'default_limit' }
    isProblem(t, await send(json, '{"default_limit": -1.00000000000000000001}'), 422, rounded)
    isProblem(t, await send('application/xml', '<limit/>'), 415, { field: 'body' })
    isProblem(t, await send(json, JSON.stringify({ name: 'x'.repeat(2 ** 21) })), 413, { field: 'body' })
    t.match(await typeOf(key), { default_limit: 5 })
  }
)

t.test('every route knows a type at once that another process has just declared', async t => {
  const user = newUser()
  await quota.consume(user, 'calls')
  const routes: [(key: string) => string, Call][] = [
    [key => `/users?quota_type=${key}`, {}],
    [key => `/usage-logs?quota_type=${key}`, {}],
    [key => `/statistics/${key}`, {}],
    [key => `/users/${user}/adjust?quota_type=${key}&new_limit=3`, { method: 'PUT' }],
    [key => `/users/${user}/reset?quota_type=${key}`, { method: 'POST' }]
  ]
  for (const [route, how] of routes) {
    const key = newKey()
    isProblem(t, await call(route(key), how), 404, { code: 'FST_QUOTA_UNKNOWN_TYPE' })
    await declareTypes(db, { [key]: { limit: 5 } })
    t.equal((await call(route(key), how)).statusCode, 200, route(key))
  }
})

t.test('403: without the token', async t => {
  isProblem(t, await set('calls', { default_limit: 9 }, { token: null }), 403)
  t.match(await typeOf('calls'), { default_limit: 10 })
})

t.test('409: a flow cannot become a level, nor the reverse', async t => {
  const mismatch = { code: 'FST_QUOTA_KIND_MISMATCH', field: 'kind' }
  isProblem(t, await set('calls', { kind: 'level', default_limit: 99 }), 409, mismatch)
  isProblem(t, await set('storage', { kind: 'flow', default_limit: 99 }), 409, mismatch)
  isProblem(t, await set('storage', { kind: 'flow', period: 'month' }), 409, mismatch)
  t.match(await typeOf('calls'), { kind: 'flow', default_limit: 10 })
  t.match(await typeOf('storage'), { kind: 'level', default_limit: 100 })
  t.notOk((await auditOfType('calls')).some(({ actor }) => actor === 'admin'))
})

t.test('422: a number that cannot be a limit', async t => {
  const invalid = { code: 'FST_QUOTA_INVALID_LIMIT', field: 'default_limit' }
  const [known, fresh] = [await created(), newKey()]
  for (const limit of [-2, 1.5, -0.5, 2 ** 53, -(2 ** 53), 1e300]) {
    isProblem(t, await set(known, { default_limit: limit, name: 'x' }), 422, invalid, `${limit}`)
    isProblem(t, await set(fresh, { default_limit: limit }), 422, invalid, `${limit}`)
  }
  t.match(await typeOf(known), { default_limit: 5, name: known })
  t.equal(await typeOf(fresh), undefined)
})

t.test('503: the database does not answer', async t => {
  await db.close()
  isProblem(t, await set('calls', { default_limit: 5 }), 503, { code: 'FST_QUOTA_STORE' })
})
