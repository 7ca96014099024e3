import t from 'tap'
import { isAnswer, isProblem, operated } from '../fixtures/admin.ts'
import { BY } from '../fixtures/charges.ts'
import { ODD_USERS } from '../fixtures/meter.ts'
import { newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
const { quota } = app
const code = 'FST_QUOTA_INVALID_REQUEST'

type Row = { id: string; action: string; user_id: string | null; reason: string | null; created_at: string }

async function list(query: Record<string, string>): Promise<{ audit_logs: Row[]; next_cursor: string | null }> {
  const reply = await call(`/audit-logs?${new URLSearchParams(query)}`)
  if (reply.statusCode !== 200) throw new Error(reply.body)
  return reply.json()
}
const reasons = async (query: Record<string, string>) => (await list(query)).audit_logs.map(({ reason }) => reason)

/** A user with n changes, whose reasons are 1 to n in this order. */
async function changed(n: number, user = newUser()): Promise<string> {
  await quota.consume(user, 'calls', 1)
  for (let i = 1; i <= n; i++) {
    await quota.adjust(user, 'calls', i, { reason: String(i) })
    // So that each has a timestamp of its own.
    await new Promise(resolve => setTimeout(resolve, 2))
  }
  return user
}

t.test('200: every field of a change, newest first', async t => {
  const user = await changed(1)
  await call(`/users/${user}/reset?quota_type=calls&reason=Ticket%204711`, { method: 'POST' })
  const reply = await call(`/audit-logs?user_id=${user}`)
  isAnswer(t, reply)
  t.strictSame(Object.keys(reply.json()), ['audit_logs', 'next_cursor'])
  const [reset, adjusted, ...more] = reply.json().audit_logs
  t.strictSame(more, [])
  t.match(reset, {
    id: /^[0-9a-f-]{36}$/,
    actor: 'admin',
    action: 'reset',
    user_id: user,
    quota_type: 'calls',
    before: { used: 1, reserved: 0, period_start: String },
    after: { used: 0, reserved: 0, period_start: String },
    reason: 'Ticket 4711',
    request_id: /^req-/,
    created_at: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
  })
  const { id: _, created_at: __, ...rest } = adjusted
  t.strictSame(rest, {
    actor: 'application',
    action: 'adjust',
    user_id: user,
    quota_type: 'calls',
    before: { limit: 10 },
    after: { limit: 1 },
    reason: '1',
    request_id: null
  })
})

t.test('200: changes by the application, with the actor, reason and request id that it gave', async t => {
  const user = newUser()
  await quota.consume(user, 'calls', 3)
  await quota.reset(user, 'calls', BY)
  await quota.adjust(user, 'tokens', -1, { ...BY, actor: 'Zoë "山田"' })
  await quota.adjust(user, 'calls', 2 ** 53 - 1)
  const { audit_logs } = (await call(`/audit-logs?user_id=${user}`)).json()
  t.match(
    [...audit_logs].sort((a: Row, b: Row) => a.created_at.localeCompare(b.created_at)),
    [
      { action: 'reset', actor: 'ops', reason: 'asked by phone', request_id: 'req-1', before: { used: 3 } },
      { action: 'adjust', actor: 'Zoë "山田"', reason: 'asked by phone', request_id: 'req-1', after: { limit: -1 } },
      { action: 'adjust', actor: 'application', reason: null, request_id: null, after: { limit: 2 ** 53 - 1 } }
    ]
  )
})

t.test('200: a change to a type belongs to no user', async t => {
  await call('/quota-types/scans', { method: 'PUT', body: { default_limit: 5, reason: 'new' } })
  await call('/quota-types/scans', { method: 'PUT', body: { default_limit: 6 } })
  const { audit_logs } = (await call('/audit-logs?quota_type=scans')).json()
  t.match(audit_logs, [
    {
      action: 'update_type',
      user_id: null,
      quota_type: 'scans',
      before: { default_limit: 5 },
      after: { default_limit: 6 }
    },
    {
      action: 'create_type',
      user_id: null,
      quota_type: 'scans',
      before: null,
      after: { default_limit: 5 },
      reason: 'new'
    }
  ])
  const declared = (await call('/audit-logs?action=create_type&quota_type=calls')).json().audit_logs
  t.match(declared, [
    { actor: 'application', user_id: null, before: null, after: { default_limit: 10, is_active: true } }
  ])
})

t.test('200: keeps the changes of a deleted user, without the email address', async t => {
  const user = await changed(1)
  await call(`/users/${user}`, { method: 'PATCH', body: { email: 'alice@example.com' } })
  await call(`/users/${user}`, { method: 'DELETE' })
  const reply = await call(`/audit-logs?user_id=${user}`)
  t.match(reply.json().audit_logs, [
    {
      action: 'delete_user',
      user_id: user,
      quota_type: null,
      before: { quotas: { calls: { used: 1, limit: 1 } } },
      after: null
    },
    { action: 'update_user', before: { email: null }, after: { email: 'withheld, changed', time_zone: 'UTC' } },
    { action: 'adjust' }
  ])
  t.notMatch(reply.body, 'alice@')
})

t.test('200: filters by user, actor, action and type, alone or combined', async t => {
  const [user, other] = [await changed(2), await changed(1)]
  await quota.reset(user, 'calls', { ...BY, reason: 'r1' })
  await quota.reset(user, 'tokens', { ...BY, reason: 'r2' })
  await quota.reset(other, 'tokens', { ...BY, reason: 'r3' })
  await call(`/users/${user}`, { method: 'PATCH', body: { email: null, reason: 'p' } })
  const sorted = async (query: Record<string, string>) => (await reasons({ ...query, limit: '1000' })).sort()
  t.strictSame(await sorted({ user_id: user }), ['1', '2', 'p', 'r1', 'r2'])
  t.strictSame(await sorted({ user_id: user, actor: 'ops' }), ['r1', 'r2'])
  t.strictSame(await sorted({ user_id: user, actor: 'admin' }), ['p'])
  t.strictSame(await sorted({ user_id: user, actor: 'application', action: 'adjust' }), ['1', '2'])
  t.strictSame(await sorted({ user_id: user, action: 'reset', quota_type: 'tokens' }), ['r2'])
  t.strictSame(await sorted({ user_id: user, action: 'adjust', quota_type: 'tokens' }), [])
  t.strictSame(await sorted({ user_id: user, quota_type: 'calls' }), ['1', '2', 'r1'])
  t.strictSame(await sorted({ actor: 'ops', action: 'reset', quota_type: 'tokens', user_id: other }), ['r3'])
  for (const { action } of (await list({ action: 'update_user', limit: '1000' })).audit_logs)
    t.equal(action, 'update_user')
  t.strictSame(await reasons({ user_id: newUser() }), [])
  t.strictSame(await reasons({ actor: "'; --" }), [])
  t.strictSame(await reasons({ actor: '%' }), [], 'no value is a pattern')
  t.strictSame(await reasons({ quota_type: 'nothing' }), [], 'an unknown type is no error: its changes may outlive it')
})

t.test('200: filters by each kind of action', async t => {
  const user = await changed(1)
  await quota.reset(user)
  await call(`/users/${user}`, { method: 'PATCH', body: { email: null } })
  await call(`/users/${user}`, { method: 'DELETE' })
  await call('/quota-types/calls', { method: 'PUT', body: { description: 'x' } })
  for (const action of ['reset', 'adjust', 'update_user', 'delete_user', 'create_type', 'update_type']) {
    const { audit_logs } = await list({ action, limit: '1' })
    t.match(audit_logs, [{ action }], action)
  }
  isAnswer(t, await call('/audit-logs?action=reconcile'))
})

t.test('200: works for user ids that are special in URLs, SQL, JSON or patterns', async t => {
  for (const user of ODD_USERS) {
    await changed(1, user)
    t.match((await list({ user_id: user })).audit_logs, [{ user_id: user, reason: '1' }], user)
  }
})

t.test('200: includes start_date, and excludes end_date unless it is a whole day', async t => {
  const user = await changed(3)
  const [third, , first] = (await list({ user_id: user })).audit_logs as [Row, Row, Row]
  const of = (more: Record<string, string>) => reasons({ user_id: user, ...more })
  t.strictSame(await of({ start_date: first.created_at }), ['3', '2', '1'])
  t.strictSame(await of({ start_date: third.created_at }), ['3'])
  t.strictSame(await of({ end_date: third.created_at }), ['2', '1'])
  const inKolkata = new Date(Date.parse(third.created_at) + 5.5 * 3_600_000).toISOString().replace('Z', '+05:30')
  t.strictSame(await of({ start_date: inKolkata }), ['3'], 'an offset with minutes')
  t.strictSame(await of({ end_date: inKolkata }), ['2', '1'])
  t.strictSame(await of({ start_date: first.created_at.replace('Z', '+00:00'), end_date: third.created_at }), [
    '2',
    '1'
  ])
  const [day] = first.created_at.split('T') as [string]
  t.ok((await of({ start_date: day, end_date: day })).includes('1'))
  t.strictSame(await of({ end_date: '2020-01-01' }), [])
  t.strictSame(await of({ start_date: '2099-01-01' }), [])
  t.strictSame(await of({ start_date: first.created_at, action: 'adjust', actor: 'application', limit: '1' }), ['3'])
})

t.test('200: paging by cursor yields each row once, even while more are written', async t => {
  const user = await changed(7)
  const seen: (string | null)[] = []
  let cursor: string | null = null
  do {
    const page = await list({ user_id: user, limit: '3', ...(cursor === null ? {} : { cursor }) })
    seen.push(...page.audit_logs.map(({ reason }) => reason))
    cursor = page.next_cursor
    await quota.adjust(user, 'calls', 99, { reason: 'late' })
  } while (cursor !== null)
  t.strictSame(seen, ['7', '6', '5', '4', '3', '2', '1'])
})

t.test('200: paging by cursor yields each row once, even if all have the same timestamp', async t => {
  const user = newUser()
  await db.query(
    `INSERT INTO quota_audit_logs (user_id, actor, action, reason, created_at)
     SELECT $1, 'x', 'reset', n::text, '2026-01-01' FROM generate_series(1, 25) n`,
    [user]
  )
  const seen: (string | null)[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: Awaited<ReturnType<typeof list>> = await list({ user_id: user, limit: '4', ...(cursor && { cursor }) })
    seen.push(...page.audit_logs.map(({ reason }) => reason))
    cursor = page.next_cursor
  }
  t.equal(seen.length, 25)
  t.equal(new Set(seen).size, 25)
})

t.test('200: pages by offset, and returns 100 rows if no limit is given', async t => {
  const user = await changed(4)
  t.strictSame(await reasons({ user_id: user, limit: '2', offset: '0' }), ['4', '3'])
  t.strictSame(await reasons({ user_id: user, limit: '2', offset: '2' }), ['2', '1'])
  t.strictSame(await reasons({ user_id: user, offset: '4' }), [])
  await db.query(
    "INSERT INTO quota_audit_logs (user_id, actor, action) SELECT $1, 'x', 'reset' FROM generate_series(1, 100)",
    [user]
  )
  const { audit_logs, next_cursor } = await list({ user_id: user })
  t.equal(audit_logs.length, 100)
  t.type(next_cursor, 'string')
  t.equal((await list({ user_id: user, limit: '1000' })).audit_logs.length, 104)
})

/** As the list writes it. */
const cursorAt = (time: number) =>
  Buffer.from(JSON.stringify(['audit-logs', time, '01970000-0000-7000-8000-000000000000'])).toString('base64url')

t.test('400: names the invalid field', async t => {
  const wrong: Record<string, string[]> = {
    action: ['', 'delete', 'RESET', 'reset,adjust', '__proto__'],
    actor: ['', 'a\u0000b', 'x'.repeat(1001)],
    quota_type: ['', 'a\u0000b'],
    start_date: ['', 'yesterday', '2026-02-30', '2026-11-24T10:00:00+2', '1969-12-31', '1764000000'],
    end_date: ['', '10000-01-01', '2026-13-01'],
    limit: ['', '0', '1001', '-1', '1.5', '٣'],
    offset: ['', '-1', 'x'],
    cursor: ['', 'abc', '%%%', 'eyJ9', 'x'.repeat(10_000), ...[Date.UTC(10_000, 0), -1e15].map(cursorAt)]
  }
  for (const [field, values] of Object.entries(wrong)) {
    for (const value of values)
      isProblem(
        t,
        await call(`/audit-logs?${new URLSearchParams({ [field]: value })}`),
        400,
        { code, field },
        `${field}=${value.slice(0, 20)}`
      )
  }
  for (const user of ['', 'a\u0000b', 'a'.repeat(256)]) {
    const reply = await call(`/audit-logs?${new URLSearchParams({ user_id: user })}`)
    isProblem(t, reply, 400, { code: 'FST_QUOTA_INVALID_USER', field: 'user_id' })
  }
  isProblem(t, await call('/audit-logs?userid=alice'), 400, { field: 'userid' })
  isProblem(t, await call('/audit-logs?actor=a&actor=b'), 400, { field: 'actor' }, 'the same parameter twice')
})

t.test('400: contradictory parameters, and a cursor from another list', async t => {
  const user = await changed(2)
  const cursor = (await list({ limit: '1' })).next_cursor as string
  isProblem(t, await call(`/audit-logs?cursor=${cursor}&offset=1`), 400, { code, field: 'offset' })
  const reply = await call('/audit-logs?start_date=2026-02-01&end_date=2026-01-01')
  isProblem(t, reply, 400, { code, field: 'end_date' })
  await quota.consume(user, 'free', 1)
  await quota.consume(user, 'free', 1)
  for (const path of ['/usage-logs?limit=1', '/users?limit=1']) {
    const other = (await call(path)).json().next_cursor as string
    isProblem(t, await call(`/audit-logs?cursor=${other}`), 400, { code, field: 'cursor' }, path)
  }
})

t.test('403: without the token', async t => {
  isProblem(t, await call('/audit-logs', { token: null }), 403)
  isProblem(t, await call('/audit-logs', { token: 'wrong' }), 403)
})

t.test('404: rows cannot be written, changed or deleted here', async t => {
  const user = await changed(1)
  const { audit_logs } = await list({ user_id: user })
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE'] as const) {
    for (const path of ['/audit-logs', `/audit-logs?user_id=${user}`, `/audit-logs/${audit_logs[0]!.id}`])
      isProblem(t, await call(path, { method, body: {} }), 404, {}, `${method} ${path}`)
  }
  isProblem(t, await call(`/audit-logs/${audit_logs[0]!.id}`), 404)
  t.strictSame((await list({ user_id: user })).audit_logs, audit_logs)
})

t.test('503: the database does not answer', async t => {
  await db.close()
  const reply = await call('/audit-logs')
  isProblem(t, reply, 503, { code: 'FST_QUOTA_STORE' })
  t.equal(reply.headers['retry-after'], '2')
})
