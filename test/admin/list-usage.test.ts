import t from 'tap'
import { isAnswer, isProblem, operated } from '../fixtures/admin.ts'
import { newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
type Row = { id: string; user_id: string; quota_type: string; amount: number; created_at: string }

async function list(query: Record<string, string>): Promise<{ usage_logs: Row[]; next_cursor: string | null }> {
  const reply = await call(`/usage-logs?${new URLSearchParams(query)}`)
  if (reply.statusCode !== 200) throw new Error(reply.body)
  return reply.json()
}
const amounts = async (query: Record<string, string>) => (await list(query)).usage_logs.map(({ amount }) => amount)

/** A user with charges of 1 to n, in this order. */
async function charged(n: number, type = 'tokens'): Promise<string> {
  const user = newUser()
  for (let amount = 1; amount <= n; amount++)
    await app.quota.consume(user, type, amount, { endpoint: `/job/${amount}` })
  return user
}

t.test('200: every field of a charge, newest first', async t => {
  const user = await charged(2)
  await app.quota.consume(user, 'storage', 9, { metadata: { file: { name: 'x' }, tags: [1] } })
  await app.quota.credit(user, 'storage', 4)
  const reply = await call(`/usage-logs?user_id=${user}`)
  isAnswer(t, reply)
  t.strictSame(Object.keys(reply.json()), ['usage_logs', 'next_cursor'])
  const [credited, stored, second, first] = reply.json().usage_logs
  t.strictSame([credited.amount, stored.amount, second.amount, first.amount], [-4, 9, 2, 1])
  t.match(stored, {
    id: /^[0-9a-f-]{36}$/,
    user_id: user,
    quota_type: 'storage',
    amount: 9,
    endpoint: null,
    metadata: { file: { name: 'x' }, tags: [1] },
    created_at: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
  })
  t.match(first, { quota_type: 'tokens', endpoint: '/job/1', metadata: {} })
})

t.test('200: paging by cursor yields each row once, even while more are written', async t => {
  const user = await charged(7)
  const seen: number[] = []
  let cursor: string | null = null
  do {
    const page = await list({ user_id: user, limit: '3', ...(cursor === null ? {} : { cursor }) })
    seen.push(...page.usage_logs.map(({ amount }) => amount))
    cursor = page.next_cursor
    await app.quota.consume(user, 'tokens', 99)
  } while (cursor !== null)
  t.strictSame(seen, [7, 6, 5, 4, 3, 2, 1])
})

t.test('200: pages by offset, for old scripts', async t => {
  const user = await charged(4)
  t.strictSame(await amounts({ user_id: user, limit: '2', offset: '0' }), [4, 3])
  t.strictSame(await amounts({ user_id: user, limit: '2', offset: '2' }), [2, 1])
  t.strictSame(await amounts({ user_id: user, offset: '4' }), [])
})

t.test('200: returns 100 rows if no limit is given', async t => {
  const user = newUser()
  await Promise.all(Array.from({ length: 101 }, () => app.quota.consume(user, 'free', 1)))
  const { usage_logs, next_cursor } = await list({ user_id: user })
  t.equal(usage_logs.length, 100)
  t.type(next_cursor, 'string')
  t.equal((await list({ user_id: user, limit: '1000' })).usage_logs.length, 101)
})

t.test('200: filters by an endpoint as long as the log accepts', async t => {
  const user = newUser()
  const endpoint = `/${'x'.repeat(2047)}`
  await app.quota.consume(user, 'calls', 1, { endpoint })
  t.strictSame(await amounts({ user_id: user, endpoint }), [1])
})

t.test('200: filters by user, type and endpoint, alone or combined', async t => {
  const user = await charged(3)
  await app.quota.consume(user, 'calls', 10, { endpoint: '/job/1' })
  t.strictSame(await amounts({ user_id: user, quota_type: 'calls' }), [10])
  t.strictSame(await amounts({ user_id: user, endpoint: '/job/1' }), [10, 1])
  t.strictSame(await amounts({ user_id: user, endpoint: '/job/1', quota_type: 'tokens' }), [1])
  t.strictSame(await amounts({ user_id: newUser() }), [])
  t.ok((await list({ quota_type: 'calls', limit: '1000' })).usage_logs.every(row => row.quota_type === 'calls'))
})

t.test('200: includes start_date, and excludes end_date unless it is a whole day', async t => {
  const user = await charged(3)
  const rows = (await list({ user_id: user })).usage_logs
  const created = rows.at(-1)!.created_at
  const from = { user_id: user, start_date: created }
  t.equal((await amounts(from)).at(-1), 1)
  t.notOk((await amounts({ user_id: user, end_date: created })).includes(1))
  const offset = created.replace('Z', '+00:00')
  t.equal((await amounts({ user_id: user, start_date: offset })).length, 3)
  const local = new Date(Date.parse(created) + 2 * 3_600_000).toISOString().replace('Z', '')
  for (const same of [created.replace('Z', ''), `${local}+02:00`, `${local}+0200`, `${local}+02`])
    t.strictSame(await amounts({ user_id: user, start_date: same }), await amounts(from), same)
  const [day] = created.split('T') as [string]
  t.ok((await amounts({ user_id: user, start_date: day, end_date: day })).includes(1))
  t.strictSame(await amounts({ user_id: user, end_date: '2020-01-01' }), [])
})

t.test('400: names the invalid field', async t => {
  const wrong: [field: string, value: string][] = [
    ...['0', '1001', '-1', '1.5', 'abc', '', ' 5', '5 ', '0x10', '1e2', '٣'].map((v): [string, string] => ['limit', v]),
    ...['-1', 'x', '1.5', '', '9'.repeat(16)].map((v): [string, string] => ['offset', v]),
    ...['abc', '', 'eyJ9', '%%%', 'MTIzNA'].map((v): [string, string] => ['cursor', v]),
    ...[
      'yesterday',
      '2026-02-30',
      '2026-13-01',
      '2026-11-24T25:00:00Z',
      '24.11.2026',
      '1764000000',
      '',
      '1969-12-31'
    ].map((v): [string, string] => ['start_date', v]),
    ['end_date', '2026-11-24T10:00:00+25:00'],
    ['end_date', '2026-11-24 10:00:00'],
    ['end_date', '9999-12-31T23:59:59-01:00'],
    ['user_id', ''],
    ['user_id', 'a\u0000b'],
    ['user_id', 'a'.repeat(256)],
    ['endpoint', 'a\u0000b'],
    ['userid', 'alice'],
    ['format', 'xml']
  ]
  for (const [field, value] of wrong) {
    const reply = await call(`/usage-logs?${new URLSearchParams({ [field]: value })}`)
    t.match(reply.json(), { status: 400, field, detail: String }, `${field}=${value.slice(0, 30)}`)
    t.equal(reply.statusCode, 400)
  }
  isProblem(t, await call('/usage-logs?limit=x'), 400, { code: 'FST_QUOTA_INVALID_REQUEST', field: 'limit' })
  isProblem(t, await call('/usage-logs?limit=1&limit=2'), 400, { field: 'limit' }, 'the same parameter twice')
})

t.test('400: parameters that contradict each other', async t => {
  const cursor = (await list({ limit: '1' })).next_cursor as string
  isProblem(t, await call(`/usage-logs?cursor=${cursor}&offset=1`), 400, {
    code: 'FST_QUOTA_INVALID_REQUEST',
    field: 'offset'
  })
  const reply = await call('/usage-logs?start_date=2026-02-01&end_date=2026-01-01')
  isProblem(t, reply, 400, { code: 'FST_QUOTA_INVALID_REQUEST', field: 'end_date' })
  const at = '2026-02-01T10:00:00Z'
  isProblem(t, await call(`/usage-logs?start_date=${at}&end_date=${at}`), 400, { field: 'end_date' })
})

t.test('200: accepts the earliest and the latest possible date', async t => {
  const all = (await list({})).usage_logs.length
  t.equal((await list({ start_date: '1970-01-01', end_date: '9999-12-31' })).usage_logs.length, all)
})

t.test('400: a UTC offset whose + was decoded as a space, with a hint to write %2B', async t => {
  const reply = await call('/usage-logs?start_date=2026-11-24T10:00:00+02:00')
  isProblem(t, reply, 400, { code: 'FST_QUOTA_INVALID_REQUEST', field: 'start_date' })
  t.match(reply.json().detail, '%2B')
  t.equal((await call('/usage-logs?start_date=2026-11-24T10:00:00%2B02:00')).statusCode, 200)
})

t.test('403: without the token', async t => {
  isProblem(t, await call('/usage-logs', { token: null }), 403)
})

t.test('400: a quota_type that is empty or a null character', async t => {
  for (const key of ['', '%00'])
    isProblem(
      t,
      await call(`/usage-logs?quota_type=${key}`),
      400,
      { code: 'FST_QUOTA_INVALID_REQUEST', field: 'quota_type' },
      key
    )
})

t.test('404: a quota type that nobody declared', async t => {
  for (const key of ['nothing', 'CALLS', "'; --"])
    isProblem(t, await call(`/usage-logs?quota_type=${key}`), 404, { code: 'FST_QUOTA_UNKNOWN_TYPE' }, key)
})

t.test('503: the database does not answer', async t => {
  await db.close()
  const reply = await call('/usage-logs')
  isProblem(t, reply, 503, { code: 'FST_QUOTA_STORE' })
  t.equal(reply.headers['retry-after'], '2')
})
