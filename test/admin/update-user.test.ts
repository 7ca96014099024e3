import t from 'tap'
import { type Call, isAnswer, isProblem, operated, TOKEN } from '../fixtures/admin.ts'
import { auditOf } from '../fixtures/charges.ts'
import { ODD_USERS, rowsOf } from '../fixtures/meter.ts'
import { newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t)
const { quota } = app
const code = 'FST_QUOTA_INVALID_REQUEST'
const update = (user: string, body: unknown, options: Call = {}) =>
  call(`/users/${encodeURIComponent(user)}`, { method: 'PATCH', body, ...options })

async function used(): Promise<string> {
  const user = newUser()
  await quota.consume(user, 'calls', 4)
  await quota.consume(user, 'tokens', 4)
  return user
}

const balanceOf = async (user: string, type: string) => (await quota.all(user)).find(each => each.type === type)!

/** Ends every running period of the user an hour ago, or just after its start if it is younger, so that the next one differs. */
const endPeriods = (user: string) =>
  db.query(
    `UPDATE quota_limits
        SET period_start = now() - interval '2 years', period_end = greatest(now() - interval '1 hour', period_start + interval '1 millisecond')
      WHERE user_id = $1 AND period_end IS NOT NULL`,
    [user]
  )

/** Day and time in a zone: `15, 00:00`. */
const wallClock = (date: Date, timeZone: string) =>
  date.toLocaleString('en-GB', { timeZone, day: '2-digit', hour: '2-digit', minute: '2-digit' })

t.test('200: changes every field at once, and answers with the updated user', async t => {
  const user = await used()
  const body = { email: 'alice@example.com', time_zone: 'Europe/Berlin', period_anchor: '2026-01-31' }
  const reply = await update(user, body)
  isAnswer(t, reply)
  const { created_at, ...rest } = reply.json()
  t.strictSame(rest, { user_id: user, ...body })
  t.match(created_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
})

t.test('200: changes each field alone, keeps those left out, and clears one that is null', async t => {
  const user = await used()
  const after = async (body: unknown) => {
    const { email, time_zone, period_anchor } = (await update(user, body)).json()
    return [email, time_zone, period_anchor]
  }
  t.strictSame(await after({ email: 'a@b' }), ['a@b', 'UTC', null])
  t.strictSame(await after({ time_zone: 'Asia/Kolkata' }), ['a@b', 'Asia/Kolkata', null])
  t.strictSame(await after({ period_anchor: '2024-02-29' }), ['a@b', 'Asia/Kolkata', '2024-02-29'])
  t.strictSame(await after({ email: 'c@d' }), ['c@d', 'Asia/Kolkata', '2024-02-29'])
  t.strictSame(await after({ email: null }), [null, 'Asia/Kolkata', '2024-02-29'])
  t.strictSame(await after({ period_anchor: null }), [null, 'Asia/Kolkata', null])
  t.strictSame(await after({ email: null, time_zone: 'UTC' }), [null, 'UTC', null], 'even one that is already empty')
})

t.test('200: stores an email address of up to 320 characters unchanged', async t => {
  const user = await used()
  for (const email of [
    `a@${'b'.repeat(318)}`,
    "O'Brien+tag@ex-ample.com",
    '"quoted"@x',
    'zoë@山田.jp',
    '😀@😀',
    '$1@{x}\\'
  ]) {
    t.equal((await update(user, { email })).json().email, email)
    t.strictSame(await db.query('SELECT email FROM quota_users WHERE id = $1', [user]), [{ email }])
  }
})

t.test('200: a new time zone leaves a running period alone, and applies from the next one', async t => {
  const user = await used()
  const { resetsAt } = await balanceOf(user, 'tokens')
  t.equal((await update(user, { time_zone: 'Asia/Kathmandu' })).statusCode, 200)
  t.strictSame((await balanceOf(user, 'tokens')).resetsAt, resetsAt)
  t.strictSame((await quota.consume(user, 'tokens', 1)).resetsAt, resetsAt)
  await endPeriods(user)
  const shown = await balanceOf(user, 'tokens')
  const next = await quota.consume(user, 'tokens', 1)
  t.equal(next.used, 1)
  t.strictSame(next.resetsAt, shown.resetsAt)
  t.match(wallClock(next.resetsAt!, 'Asia/Kathmandu'), /00:00$/)
})

t.test('200: a new anchor leaves a running period alone, and applies from the next one', async t => {
  const user = await used()
  const { resetsAt } = await balanceOf(user, 'calls')
  t.equal(wallClock(resetsAt!, 'UTC'), '01, 00:00')
  await update(user, { period_anchor: '2026-01-15', time_zone: 'America/New_York' })
  t.strictSame((await quota.consume(user, 'calls', 1)).resetsAt, resetsAt)
  await endPeriods(user)
  const next = await quota.consume(user, 'calls', 1)
  t.equal(next.used, 1)
  t.equal(wallClock(next.resetsAt!, 'America/New_York'), '15, 00:00')
  await update(user, { period_anchor: null })
  await endPeriods(user)
  t.equal(wallClock((await quota.consume(user, 'calls', 1)).resetsAt!, 'America/New_York'), '01, 00:00')
})

t.test('200: a user can be charged with any time zone and anchor that is accepted', async t => {
  const now = Date.now()
  const zones = ['UTC', 'GMT', 'Etc/GMT+12', 'Pacific/Kiritimati', 'America/Argentina/Buenos_Aires', 'europe/berlin']
  const anchors = ['0001-01-01', '1582-10-10', '1999-12-31', '2024-02-29', '2300-01-31', '9999-12-31', null]
  for (let i = 0; i < anchors.length; i++) {
    const user = await used()
    const body = { time_zone: zones[i % zones.length], period_anchor: anchors[i] }
    const reply = await update(user, body)
    t.match(reply.json(), body, JSON.stringify(body))
    await endPeriods(user)
    const { used: charged, resetsAt } = await quota.consume(user, 'calls', 1)
    t.equal(charged, 1)
    t.ok(resetsAt!.getTime() > now && resetsAt!.getTime() < now + 32 * 86_400_000, String(resetsAt?.toISOString()))
  }
})

t.test('200: shows dates in the same format, whatever the datestyle of the database', async t => {
  const user = await used()
  for (const style of ['German', 'SQL, DMY', 'Postgres, MDY']) {
    await db.query(`SET datestyle = '${style}'`)
    const reply = await update(user, { period_anchor: '2026-01-31' })
    t.equal(reply.json().period_anchor, '2026-01-31', style)
    for (const path of [`/users/${user}`, '/users?limit=1000', '/quota-types', '/usage-logs', '/audit-logs'])
      t.equal((await call(path)).statusCode, 200, path)
    await endPeriods(user)
    await t.resolves(quota.consume(user, 'calls', 1))
  }
  await db.query('RESET datestyle')
})

t.test('200: records who, why and that the email changed in the audit log, but not the address', async t => {
  const user = await used()
  await update(user, { email: 'alice@example.com', reason: 'Ticket 4711: "moved" 🙂' })
  await update(user, { email: 'bob@example.com', time_zone: 'Europe/Berlin', period_anchor: '2026-01-31' })
  await update(user, { time_zone: 'UTC' })
  await update(user, { email: null })
  const rows = await auditOf(db, user)
  const state = (email: string | null, time_zone: string, period_anchor: string | null) => ({
    email,
    time_zone,
    period_anchor
  })
  t.strictSame(
    rows.map(({ before, after }) => [before, after]),
    [
      [state(null, 'UTC', null), state('withheld, changed', 'UTC', null)],
      [state('withheld', 'UTC', null), state('withheld, changed', 'Europe/Berlin', '2026-01-31')],
      [state('withheld', 'Europe/Berlin', '2026-01-31'), state('withheld', 'UTC', '2026-01-31')],
      [state('withheld', 'UTC', '2026-01-31'), state(null, 'UTC', '2026-01-31')]
    ]
  )
  for (const row of rows) t.match(row, { actor: 'admin', action: 'update_user', quota_type: null, request_id: /^req-/ })
  t.strictSame(
    rows.map(({ reason }) => reason),
    ['Ticket 4711: "moved" 🙂', null, null, null]
  )
  t.notMatch(JSON.stringify(rows), 'example.com')
})

t.test('200: updates only that user, even if the id is special in URLs, SQL, JSON or patterns', async t => {
  const odd = ODD_USERS.filter(id => id.length <= 100)
  for (const user of odd) await quota.consume(user, 'calls', 2)
  for (const [i, user] of odd.entries()) {
    const reply = await update(user, { email: `${i}@example.com` })
    isAnswer(t, reply)
    t.match(reply.json(), { user_id: user, email: `${i}@example.com` }, user)
  }
  const rows = await db.query<{ id: string }>(
    "SELECT id FROM quota_users WHERE email ~ '^[0-9]+@' ORDER BY email::text"
  )
  t.strictSame(rows.map(({ id }) => id).sort(), [...odd].sort())
})

t.test('400: names the invalid field, and changes nothing', async t => {
  const user = await used()
  const wrong: Record<string, unknown[]> = {
    email: [
      ...['', ' ', 'alice', '@', 'a@', '@b', 'a b@c', 'a@b@c', 'a@b\n', '\ta@b', 'a\u0000@b', 'a\u0085@b', '\ud800@b'],
      `a@${'b'.repeat(319)}`
    ],
    time_zone: [
      ...['', ' ', '+05:30', '-08:00', 'Mars/Olympus', 'Europe', 'Europe/Berlin ', 'Europe/Berlin\n', 'UTC+5', 'Foo+5'],
      ...['2026-01-01T00:00[UTC]', 'Europe/Berlin\u0000', 'Z', 'local', 'null', "UTC'; --"]
    ],
    period_anchor: [
      ...['', '2026-02-30', '2025-02-29', '2026-13-01', '2026-00-10', '0000-01-01', '10000-01-01', '+010000-01-01'],
      ...['-000001-01-01', '2026-1-1', '20260101', '2026-01-01T00:00:00Z', '01.01.2026', ' 2026-01-01', '2026-01-01\n'],
      ...['infinity', 'today', '٢٠٢٦-٠١-٠١', 'null']
    ],
    reason: ['', 'x'.repeat(1001), 'a\u0000b', '\ud800']
  }
  for (const [field, values] of Object.entries(wrong)) {
    for (const value of values) {
      const body = field === 'reason' ? { email: 'a@b', reason: value } : { [field]: value }
      isProblem(t, await update(user, body), 400, { code, field }, `${field} ${JSON.stringify(value).slice(0, 40)}`)
    }
    for (const value of [5, true, [], {}, ['a@b']])
      isProblem(
        t,
        await update(user, { email: 'a@b', [field]: value }),
        400,
        { field },
        `${field} ${JSON.stringify(value)}`
      )
  }
  isProblem(t, await update(user, { time_zone: null }), 400, { field: 'time_zone' }, 'every user has a time zone')
  isProblem(t, await update(user, { email: 'a@b', reason: null }), 400, { field: 'reason' })
  isProblem(t, await update('a\nb', { email: null }), 400, { code: 'FST_QUOTA_INVALID_USER', field: 'userId' })
  t.match(await db.query('SELECT email, time_zone, period_anchor FROM quota_users WHERE id = $1', [user]), [
    { email: null, time_zone: 'UTC', period_anchor: null }
  ])
  t.strictSame(await auditOf(db, user), [], 'nothing was changed')
})

t.test('400: changes no field if one is invalid', async t => {
  const user = await used()
  isProblem(t, await update(user, { email: 'a@b', time_zone: 'Mars/Olympus' }), 400, { code, field: 'time_zone' })
  t.match(await db.query('SELECT email FROM quota_users WHERE id = $1', [user]), [{ email: null }])
})

t.test('400: nothing to change, an unknown field, or a field in the wrong place', async t => {
  const user = await used()
  isProblem(t, await update(user, {}), 400, { code, field: 'body' })
  isProblem(t, await update(user, { reason: 'why not' }), 400, { code, field: 'body' })
  isProblem(t, await update(user, undefined), 400, { field: 'body' })
  isProblem(t, await update(user, []), 400, { field: 'body' })
  isProblem(t, await update(user, { email: 'a@b', name: 'Alice' }), 400, { field: 'name' })
  isProblem(t, await update(user, { timeZone: 'UTC' }), 400, { field: 'timeZone' })
  isProblem(t, await update(user, { email: 'a@b', user_id: 'bob' }), 400, { field: 'user_id' })
  isProblem(t, await call(`/users/${user}?email=a@b`, { method: 'PATCH' }), 400, { field: 'body' })
  const both = await call(`/users/${user}?time_zone=UTC`, { method: 'PATCH', body: { email: 'a@b' } })
  isProblem(t, both, 400, { field: 'time_zone' })
  const reason = await call(`/users/${user}?reason=x`, { method: 'PATCH', body: { email: 'a@b' } })
  isProblem(t, reason, 400, { field: 'reason' })
  t.strictSame(await auditOf(db, user), [])
})

t.test('400, 413 and 415: a body that is invalid or unsafe JSON, too large, or of another content type', async t => {
  const user = await used()
  const send = (type: string, payload: string) =>
    app.inject({
      method: 'PATCH',
      url: `/admin/quotas/users/${user}`,
      headers: { 'x-admin-token': TOKEN, 'content-type': type },
      payload
    })
  const json = 'application/json'
  isProblem(t, await send(json, '{"email":'), 400, { field: 'body' })
  isProblem(t, await send(json, ''), 400, { field: 'body' })
  isProblem(t, await send(json, 'null'), 400, { field: 'body' })
  isProblem(t, await send(json, '"a@b"'), 400, { field: 'body' })
  isProblem(t, await send(json, '{"__proto__": {"email": "a@b"}}'), 400, { field: 'body' })
  isProblem(t, await send(json, '{"email": "a@b", "__proto__": null}'), 400, { field: 'body' })
  isProblem(t, await send(json, '{"constructor": {"prototype": {"email": "a@b"}}}'), 400, { field: 'body' })
  isProblem(t, await send(json, '{"email": "a@b", "toString": "x"}'), 400, { field: 'toString' })
  isProblem(t, await send('text/plain', '{"email":"a@b"}'), 415, { field: 'body' })
  isProblem(t, await send('application/xml', '<email/>'), 415, { field: 'body' })
  isProblem(t, await send(json, JSON.stringify({ email: 'x'.repeat(2 ** 21) })), 413, { field: 'body' })
  t.strictSame(await auditOf(db, user), [])
})

t.test('403: without the token', async t => {
  const user = await used()
  isProblem(t, await update(user, { email: 'a@b' }, { token: null }), 403)
  t.match(await db.query('SELECT email FROM quota_users WHERE id = $1', [user]), [{ email: null }])
})

t.test('404: a user who was never charged, and none is created', async t => {
  const user = newUser()
  isProblem(t, await update(user, { email: 'a@b' }), 404, { code: 'FST_QUOTA_UNKNOWN_USER' })
  t.strictSame(await rowsOf(db, user), {})
  t.strictSame(await auditOf(db, user), [])
})

t.test('503: the database does not answer', async t => {
  await db.close()
  const reply = await update('alice', { email: 'a@b' })
  isProblem(t, reply, 503, { code: 'FST_QUOTA_STORE' })
  t.equal(reply.headers['retry-after'], '2')
})
