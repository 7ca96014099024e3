import t from 'tap'
import { isAnswer, isProblem, operated } from '../fixtures/admin.ts'
import { BUT_TYPES, empty } from '../fixtures/empty.ts'
import { ODD_USERS } from '../fixtures/meter.ts'
import { newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
const { quota } = app
const code = 'FST_QUOTA_INVALID_REQUEST'

interface Ranked {
  user_id: string
  type_key: string
  used: number
  usage_percent: number | null
}
type Query = Record<string, string>

async function list(query: Query = {}): Promise<{ users: Ranked[]; next_cursor: string | null }> {
  const reply = await call(`/users?${new URLSearchParams(query)}`)
  if (reply.statusCode !== 200) throw new Error(reply.body)
  return reply.json()
}
const ids = async (query?: Query) => (await list(query)).users.map(({ user_id }) => user_id)
const ranks = async (query?: Query) =>
  (await list(query)).users.map(({ user_id, type_key, usage_percent }) => [user_id, type_key, usage_percent])

/** The users of all pages, in turn; `between` runs after each page. */
async function pages(query: Query, between: () => Promise<unknown> = async () => {}): Promise<string[]> {
  const seen: string[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const page: Awaited<ReturnType<typeof list>> = await list({ ...query, ...(cursor === '' ? {} : { cursor }) })
    seen.push(...page.users.map(({ user_id }) => user_id))
    cursor = page.next_cursor
    await between()
  }
  return seen
}

/** So that each test lists only its own users. */
t.beforeEach(() => empty(db, BUT_TYPES))

t.test('200: every user once, with the quota nearest to its limit, nearest first', async t => {
  await quota.consume('alice', 'tokens', 500)
  await quota.consume('alice', 'calls', 9)
  await quota.consume('bob', 'storage', 33)
  await quota.consume('carol', 'tokens', 1000)
  await quota.consume('carol', 'free', 1_000_000)
  const reply = await call('/users')
  isAnswer(t, reply)
  t.strictSame(Object.keys(reply.json()), ['users', 'next_cursor'])
  t.equal(reply.json().next_cursor, null)
  t.strictSame(await ranks(), [
    ['carol', 'tokens', 100],
    ['alice', 'calls', 90],
    ['bob', 'storage', 33]
  ])
})

t.test('200: every field of a user and of the quota that ranks them', async t => {
  const user = newUser()
  await quota.consume(user, 'calls', 4)
  await quota.reserve(user, { type: 'calls', amount: 1 })
  const of = async () => (await call('/users')).json().users[0]
  const { period_start, resets_at, ...rest } = await of()
  t.strictSame(rest, {
    user_id: user,
    email: null,
    time_zone: 'UTC',
    period_anchor: null,
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
  t.match([period_start, resets_at], [/^\d{4}-\d\d-01T00:00:00\.000Z$/, /^\d{4}-\d\d-01T00:00:00\.000Z$/])
  const [same] = (await call(`/users/${user}`)).json().quotas
  t.match(await of(), same, 'with the same figures as GET /users/:userId')
  const body = { email: 'alice@example.com', time_zone: 'Europe/Berlin', period_anchor: '2026-01-31' }
  await call(`/users/${user}`, { method: 'PATCH', body })
  t.match(await of(), body)
})

t.test('200: breaks ties between users by id, and between quotas of a user by key', async t => {
  for (const user of ['b', 'a', 'c']) {
    await quota.consume(user, 'tokens', 500)
    await quota.consume(user, 'calls', 5)
  }
  t.strictSame(await ranks(), [
    ['a', 'calls', 50],
    ['b', 'calls', 50],
    ['c', 'calls', 50]
  ])
})

t.test('200: sort=used ranks by amount used or reserved, highest first, for one type or all', async t => {
  await quota.consume('alice', 'calls', 9)
  await quota.consume('alice', 'tokens', 20)
  await quota.consume('bob', 'calls', 2)
  await quota.consume('bob', 'free', 70)
  await quota.reserve('carol', { type: 'calls', amount: 10 })
  await quota.consume('dave', 'tokens', 19)
  t.strictSame(await ids({ sort: 'used', quota_type: 'calls' }), ['carol', 'alice', 'bob', 'dave'])
  t.strictSame(await ranks({ sort: 'used' }), [
    ['bob', 'free', null],
    ['alice', 'tokens', 2],
    ['dave', 'tokens', 1.9],
    ['carol', 'calls', 100]
  ])
})

t.test('200: sort=user_id orders by id, each user with the quota nearest to its limit', async t => {
  await quota.consume('carol', 'calls', 9)
  await quota.consume('alice', 'tokens', 10)
  await quota.consume('bob', 'storage', 33)
  t.strictSame(await ranks({ sort: 'user_id' }), [
    ['alice', 'tokens', 1],
    ['bob', 'storage', 33],
    ['carol', 'calls', 90]
  ])
})

t.test('200: quota_type ranks by that type alone', async t => {
  await quota.consume('alice', 'calls', 9)
  await quota.consume('bob', 'tokens', 500)
  t.strictSame(await ranks({ quota_type: 'tokens' }), [
    ['bob', 'tokens', 50],
    ['alice', 'tokens', 0]
  ])
})

t.test('200: ignores a type that is switched off, unless quota_type names it', async t => {
  await quota.consume('alice', 'calls', 9)
  await quota.consume('bob', 'tokens', 500)
  const set = (is_active: boolean) => call('/quota-types/calls', { method: 'PUT', body: { is_active } })
  await set(false)
  t.strictSame(await ranks(), [
    ['bob', 'tokens', 50],
    ['alice', 'storage', 0]
  ])
  t.strictSame(await ids({ min_usage_percent: '80' }), [])
  t.strictSame(await ranks({ quota_type: 'calls' }), [
    ['alice', 'calls', 90],
    ['bob', 'calls', 0]
  ])
  t.strictSame(await ids({ quota_type: 'calls', min_usage_percent: '90' }), ['alice'])
  await set(true)
  t.strictSame(await ids({ min_usage_percent: '80' }), ['alice'])
})

t.test('200: user_id finds that user alone, even if the id is special in URLs, SQL, JSON or patterns', async t => {
  for (const [i, user] of ODD_USERS.entries()) await quota.consume(user, 'calls', i % 10)
  for (const [i, user] of ODD_USERS.entries()) {
    t.strictSame(await ids({ user_id: user }), [user], user)
    t.match((await list({ user_id: user, quota_type: 'calls', sort: 'used' })).users, [{ user_id: user, used: i % 10 }])
    t.strictSame(await ids({ user_id: user, min_usage_percent: '90' }), i % 10 === 9 ? [user] : [])
    t.strictSame(await pages({ user_id: user, sort: 'user_id', limit: '1' }), [user])
  }
  t.strictSame(await ids({ user_id: newUser() }), [])
})

t.test('200: min_usage_percent lists only users who reach it, to fractions of a percent', async t => {
  await quota.consume('third', 'calls', 1)
  await quota.adjust('third', 'calls', 3)
  await quota.consume('over', 'calls', 10)
  await quota.adjust('over', 'calls', 4)
  await quota.reserve('held', { type: 'tokens', amount: 995 })
  await quota.consume('idle', 'calls', 0)
  const near = (min_usage_percent: string, more: Query = {}) => ids({ min_usage_percent, ...more })
  t.strictSame(await near('0'), ['over', 'held', 'third', 'idle'])
  t.strictSame(await near('0.000001'), ['over', 'held', 'third'])
  t.strictSame(await near('33.33'), ['over', 'held', 'third'])
  t.strictSame(await near('33.330000'), ['over', 'held', 'third'])
  t.strictSame(await near('33.330001'), ['over', 'held'])
  t.strictSame(await near('99.5'), ['over', 'held'])
  t.strictSame(await near('99.51'), ['over'])
  t.strictSame(await near('250'), ['over'])
  t.strictSame(await near('250.01'), [])
  t.strictSame(await near('1000000'), [])
  t.strictSame(await near('33', { sort: 'user_id' }), ['held', 'over', 'third'])
  t.strictSame(await near('33', { sort: 'used' }), ['held', 'over', 'third'])
  t.strictSame(await near('33', { quota_type: 'tokens' }), ['held'])
})

t.test('200: an unlimited quota ranks last, and has no percentage', async t => {
  await quota.consume('idle', 'calls', 0)
  await quota.consume('alice', 'free', 10 ** 15)
  for (const type of ['calls', 'tokens', 'storage']) await quota.adjust('alice', type, -1)
  t.strictSame(await ranks(), [
    ['idle', 'calls', 0],
    ['alice', 'calls', null]
  ])
  t.match((await list({ quota_type: 'free' })).users, [
    { user_id: 'alice', used: 10 ** 15, remaining: -1, usage_percent: null },
    { user_id: 'idle', usage_percent: null }
  ])
  t.strictSame(await ids({ min_usage_percent: '0' }), ['idle'])
  t.strictSame(await ids({ min_usage_percent: '0', quota_type: 'free' }), [])
})

t.test('200: a limit of 0 counts as fully used', async t => {
  await quota.consume('alice', 'calls', 9)
  await quota.consume('bob', 'calls', 0)
  await quota.adjust('bob', 'tokens', 0)
  t.strictSame(await ranks({ min_usage_percent: '100' }), [['bob', 'tokens', 100]])
  t.strictSame(await ids(), ['bob', 'alice'])
})

t.test('200: handles amounts and limits up to the largest safe integer', async t => {
  const max = Number.MAX_SAFE_INTEGER
  await quota.consume('alice', 'calls', 1)
  await quota.adjust('alice', 'calls', max)
  await quota.consume('bob', 'calls', 1)
  await quota.adjust('bob', 'calls', -1)
  await quota.consume('bob', 'calls', max - 1)
  t.match((await list({ sort: 'used', quota_type: 'calls' })).users, [
    { user_id: 'bob', used: max, usage_percent: null },
    { user_id: 'alice', used: 1, limit: max, remaining: max - 1, usage_percent: 0 }
  ])
  await quota.adjust('bob', 'calls', 1)
  t.equal((await list({ quota_type: 'calls' })).users[0]?.usage_percent, max * 100)
  t.strictSame(await pages({ quota_type: 'calls', limit: '1' }), ['bob', 'alice'])
})

t.test('200: an ended period counts as unused, and the new period is shown', async t => {
  await quota.consume('alice', 'calls', 9)
  await quota.consume('alice', 'storage', 5)
  await quota.consume('bob', 'calls', 1)
  await db.query(
    "UPDATE quota_limits SET period_start = '2026-01-01', period_end = '2026-02-01' WHERE user_id = 'alice' AND period_end IS NOT NULL"
  )
  t.strictSame(await ranks(), [
    ['bob', 'calls', 10],
    ['alice', 'storage', 5]
  ])
  const [bob, alice] = (await call('/users?quota_type=calls')).json().users
  t.match(alice, { user_id: 'alice', used: 0, reserved: 0, remaining: 10, usage_percent: 0 })
  t.strictSame([alice.period_start, alice.resets_at], [bob.period_start, bob.resets_at])
  t.strictSame(await ids({ sort: 'used', quota_type: 'calls' }), ['bob', 'alice'])
  t.strictSame(await ids({ min_usage_percent: '50' }), [])
})

for (const sort of ['usage_percent', 'used', 'user_id']) {
  t.test(`200: paging by cursor yields each user once, even while more are added: ${sort}`, async t => {
    const amounts = [0, 3, 3, 7, 10]
    const users = [...Array.from({ length: 20 }, () => newUser()), ...ODD_USERS]
    for (const [i, user] of users.entries()) await quota.consume(user, 'calls', amounts[i % amounts.length])
    const whole = await ids({ sort, limit: '1000' })
    t.strictSame([...whole].sort(), [...users].sort())
    for (const limit of ['1', '4', '35', '36']) t.strictSame(await pages({ sort, limit }), whole, `${limit} a page`)
    let more = 0
    const seen = await pages({ sort, limit: '5' }, async () => {
      for (const id of ['', 'a-', 'user-1', 'zz', 'é']) await quota.consume(`${id}${++more}-late`, 'calls', more % 11)
    })
    t.strictSame(
      seen.filter(user => users.includes(user)),
      whole
    )
    t.equal(new Set(seen).size, seen.length)
  })
}

t.test('200: pages through a filtered list', async t => {
  for (let i = 0; i < 9; i++) await quota.consume(`u${i}`, i % 2 ? 'calls' : 'tokens', 6)
  t.strictSame(await pages({ quota_type: 'calls', min_usage_percent: '50', limit: '3' }), ['u1', 'u3', 'u5', 'u7'])
  t.strictSame(await pages({ min_usage_percent: '50', limit: '2', sort: 'user_id' }), ['u1', 'u3', 'u5', 'u7'])
})

t.test('200: pages by offset, for old scripts', async t => {
  for (const [user, amount] of Object.entries({ a: 1, b: 5, c: 3 })) await quota.consume(user, 'calls', amount)
  t.strictSame(await ids({ limit: '2', offset: '0' }), ['b', 'c'])
  t.strictSame(await ids({ limit: '2', offset: '2' }), ['a'])
  t.strictSame(await ids({ offset: '3' }), [])
  t.strictSame(await ids({ offset: '1', sort: 'user_id' }), ['b', 'c'])
})

t.test('200: returns 100 users if no limit is given, and none if there are none', async t => {
  t.strictSame(await list(), { users: [], next_cursor: null })
  await db.query("INSERT INTO quota_users (id) SELECT 'u' || n FROM generate_series(1, 101) n")
  await db.query(
    `INSERT INTO quota_limits (user_id, quota_type_id, limit_amount, period_start)
     SELECT u.id, t.id, 10, now() FROM quota_users u CROSS JOIN quota_types t WHERE t.type_key = 'storage'`
  )
  const { users, next_cursor } = await list()
  t.equal(users.length, 100)
  t.type(next_cursor, 'string')
  t.equal((await ids({ limit: '1000' })).length, 101)
})

t.test('400: names the invalid field', async t => {
  const wrong: Record<string, string[]> = {
    min_usage_percent: [
      ...[
        '',
        'abc',
        '-1',
        '+1',
        '1e2',
        '80%',
        '1,5',
        '.5',
        '5.',
        ' 80',
        '80\n',
        '٣',
        '0x10',
        'null',
        'NaN',
        'Infinity'
      ],
      ...['1000000.1', '1000001', '12345678', '0.1234567']
    ],
    sort: ['', 'name', 'USED', 'used,user_id', 'user_id desc', '__proto__'],
    limit: ['', '0', '1001', '-1', '1.5', ' 5'],
    offset: ['', '-1', 'x', '1.5', '9'.repeat(16)],
    cursor: ['', 'abc', '%%%', 'eyJ9', 'MTIzNA', 'null', 'W10', 'x'.repeat(10_000)]
  }
  for (const [field, values] of Object.entries(wrong)) {
    for (const value of values)
      isProblem(
        t,
        await call(`/users?${new URLSearchParams({ [field]: value })}`),
        400,
        { code, field },
        `${field}=${value.slice(0, 20)}`
      )
  }
  for (const user of ['', 'a\u0000b', 'a'.repeat(256)]) {
    const reply = await call(`/users?${new URLSearchParams({ user_id: user })}`)
    isProblem(t, reply, 400, { code: 'FST_QUOTA_INVALID_USER', field: 'user_id' })
  }
  isProblem(t, await call('/users?user=alice'), 400, { field: 'user' })
  isProblem(t, await call('/users?sort=used&sort=used'), 400, { field: 'sort' }, 'the same parameter twice')
})

t.test('400: a cursor that this list did not issue, or issued for another order', async t => {
  for (const user of ['alice', 'bob', 'carol']) await quota.consume(user, 'calls', 5)
  const cursorOf = async (path: string) => (await call(path)).json().next_cursor as string
  const mine = await cursorOf('/users?limit=1')
  const refused = (cursor: string, title: string, query = '') =>
    call(`/users?limit=1&cursor=${encodeURIComponent(cursor)}${query}`).then(reply =>
      isProblem(t, reply, 400, { code, field: 'cursor' }, title)
    )
  t.equal((await call(`/users?cursor=${mine}`)).statusCode, 200)
  for (const sort of ['used', 'user_id']) {
    await refused(mine, `from usage_percent, used for ${sort}`, `&sort=${sort}`)
    await refused(await cursorOf(`/users?limit=1&sort=${sort}`), `from ${sort}`)
  }
  await refused(await cursorOf('/usage-logs?limit=1'), 'from the usage log')
  await refused(await cursorOf('/audit-logs?limit=1'), 'from the audit log')
  await refused(`${mine}=`, 'with padding')
  await refused(`${mine} `, 'with a space')
  await refused(mine.slice(0, -2), 'cut short')
  await refused(mine.toUpperCase(), 'in capitals')
  const write = (...parts: unknown[]) => Buffer.from(JSON.stringify(parts)).toString('base64url')
  const name = 'users by usage_percent'
  t.equal(write(name, '50.00', 'alice'), mine, 'write() makes the same cursor as the list')
  for (const parts of [
    [name],
    [name, '50.00'],
    [name, 50, 'alice'],
    [name, '50.00', 'alice', 'more'],
    [name, 'NaN', 'alice'],
    [name, 'Infinity', 'alice'],
    [name, '1e5', 'alice'],
    [name, '1; --', 'alice'],
    [name, '9'.repeat(200_000), 'alice'],
    [name, '50.00', ''],
    [name, '50.00', null],
    [name, '50.00', ['alice']],
    [name, '50.00', 'a\u0000b'],
    [name, '50.00', '\ud800'],
    [name, '50.00', 'a'.repeat(100_000)],
    [name, null, 'alice'],
    ['usage_percent', '50.00', 'alice']
  ])
    await refused(write(...parts), JSON.stringify(parts).slice(0, 60))
})

t.test('400: parameters that contradict each other', async t => {
  for (const user of ['alice', 'bob']) await quota.consume(user, 'calls', 5)
  const cursor = (await list({ limit: '1' })).next_cursor
  isProblem(t, await call(`/users?cursor=${cursor}&offset=1`), 400, { code, field: 'offset' })
  isProblem(t, await call(`/users?cursor=${cursor}&offset=0`), 400, { code, field: 'offset' })
})

t.test('403: without the token', async t => {
  isProblem(t, await call('/users', { token: null }), 403)
  isProblem(t, await call('/users?sort=name', { token: 'wrong' }), 403, {}, 'even for an invalid request')
})

t.test('400: a quota_type that is empty or a null character', async t => {
  for (const key of ['', '%00'])
    isProblem(
      t,
      await call(`/users?quota_type=${key}`),
      400,
      { code: 'FST_QUOTA_INVALID_REQUEST', field: 'quota_type' },
      key
    )
})

t.test('404: a quota type that nobody declared', async t => {
  for (const key of ['nothing', 'CALLS', "'; --"])
    isProblem(t, await call(`/users?quota_type=${key}`), 404, { code: 'FST_QUOTA_UNKNOWN_TYPE' }, key)
})

t.test('503: the database does not answer', async t => {
  await db.close()
  const reply = await call('/users')
  isProblem(t, reply, 503, { code: 'FST_QUOTA_STORE' })
  t.equal(reply.headers['retry-after'], '2')
})
