import t from 'tap'
import { type Call, isAnswer, isProblem, operated, TOKEN } from '../fixtures/admin.ts'
import { auditOf } from '../fixtures/charges.ts'
import { violations } from '../fixtures/invariants.ts'
import { ODD_USERS, rowsOf, tally } from '../fixtures/meter.ts'
import { ask, logsOf, newUser, usedBy } from '../fixtures/metered.ts'

/** The handler of /slow calls `begun` when it runs, and then waits for `answer`. */
const slow = { begun: () => {}, answer: Promise.resolve() }

const { app, db, call } = await operated(t, {}, app => {
  app.get('/slow', { config: { quota: [{ type: 'calls', amount: 3 }, { type: 'storage' }] } }, async (_, reply) => {
    slow.begun()
    await slow.answer
    return reply.send('done')
  })
})
const { quota } = app
const code = 'FST_QUOTA_INVALID_REQUEST'
const remove = (user: string, query = '', options: Call = {}) =>
  call(`/users/${encodeURIComponent(user)}${query}`, { method: 'DELETE', ...options })

/** Every table with a user's rows, according to the database's own catalogue. */
const TABLES = (
  await db.query<{ name: string }>(
    "SELECT table_name AS name FROM information_schema.columns WHERE column_name = 'user_id' ORDER BY table_name"
  )
).map(({ name }) => name)

/** How many rows of a user there are in each of these tables, and in `quota_users`. */
async function traces(user: string): Promise<Record<string, number>> {
  const found: Record<string, number> = {}
  for (const table of [...TABLES, 'quota_users']) {
    const column = table === 'quota_users' ? 'id' : 'user_id'
    const rows = await db.query(`SELECT 1 FROM ${table} WHERE ${column} = $1`, [user])
    if (rows.length > 0) found[table] = rows.length
  }
  return found
}

const violationsOf = async (user: string) => (await violations(db)).filter(line => line.includes(`: ${user},`))

/** A user with rows in every table: charges, a closed period, a reservation, an idempotency key, and a denial. */
async function used(user = newUser()): Promise<string> {
  await quota.consume(user, 'calls', 4, { idempotencyKey: 'once' })
  await quota.reset(user, 'calls')
  await quota.consume(user, 'calls', 5)
  await quota.consume(user, 'storage', 33)
  await quota.reserve(user, { type: 'calls', amount: 2 })
  await quota.consume(user, 'calls', 4).catch(() => {})
  // Writes the denials so far to the database.
  await call('/statistics/calls')
  await db.query(`INSERT INTO quota_usage_marks SELECT $1, now() - interval '2 hours', 1`, [user])
  await db.query(`INSERT INTO quota_usage_days SELECT $1, id, 'UTC', now(), 1, 1 FROM quota_types LIMIT 1`, [user])
  return user
}

/** Requests /slow, and resolves once its handler runs: `reply` is the pending reply, and `go` lets the handler finish. */
async function running(user: string) {
  let go = () => {}
  slow.answer = new Promise<void>(resolve => {
    go = resolve
  })
  const begun = new Promise<void>(resolve => {
    slow.begun = resolve
  })
  const reply = ask(app, user, '/slow')
  await begun
  return { reply, go }
}

t.test('204: removes the user from every table but the audit log, and leaves other users alone', async t => {
  const [user, other] = [await used(), await used(newUser())]
  const before = await traces(user)
  t.strictSame(Object.keys(before).sort(), [...TABLES, 'quota_users'].sort(), 'the user has rows in every table')
  const ofOther = await traces(other)
  const reply = await remove(user)
  t.equal(reply.statusCode, 204)
  t.equal(reply.body, '')
  t.equal(reply.headers['content-type'], undefined)
  t.equal(reply.headers['cache-control'], 'no-store')
  const { quota_audit_logs, ...rest } = await traces(user)
  t.strictSame(rest, {})
  t.equal(quota_audit_logs, before.quota_audit_logs! + 1, 'the audit log keeps its rows, and gains one')
  t.strictSame(await traces(other), ofOther)
  t.strictSame(await tally(quota, other), [5, 2, 3])
  isProblem(t, await call(`/users/${user}`), 404, { code: 'FST_QUOTA_UNKNOWN_USER' })
  t.strictSame((await call(`/usage-logs?user_id=${user}`)).json().usage_logs, [])
  t.notOk((await call('/users?limit=1000')).body.includes(`"${user}"`))
  t.strictSame(await violations(db), [])
})

t.test('204: records who, why and what was deleted in the audit log, but no email address', async t => {
  const user = await used()
  const body = { email: 'alice@example.com', time_zone: 'Europe/Berlin', period_anchor: '2026-01-31' }
  await call(`/users/${user}`, { method: 'PATCH', body })
  await quota.adjust(user, 'tokens', -1)
  const { created_at } = (await call(`/users/${user}`, { method: 'PATCH', body: { email: body.email } })).json()
  await remove(user, '', { body: { reason: 'Art. 17: "forget me" 🙂' } })
  const row = (await auditOf(db, user)).find(({ action }) => action === 'delete_user')!
  const { created_at: createdAt, ...before } = row.before as Record<string, unknown>
  t.strictSame(before, {
    time_zone: 'Europe/Berlin',
    period_anchor: '2026-01-31',
    quotas: {
      calls: { limit: 10, used: 5 },
      free: { limit: -1, used: 0 },
      storage: { limit: 100, used: 33 },
      tokens: { limit: -1, used: 0 }
    }
  })
  t.equal(createdAt, created_at)
  t.match(row, {
    actor: 'admin',
    quota_type: null,
    after: null,
    reason: 'Art. 17: "forget me" 🙂',
    request_id: /^req-/
  })
  t.notMatch(JSON.stringify(await auditOf(db, user)), 'alice@')
})

t.test('204: takes the reason from the query, the body, or both if they agree', async t => {
  const reasonOf = async (query: string, options?: Call) => {
    const user = await used()
    t.equal((await remove(user, query, options)).statusCode, 204)
    return (await auditOf(db, user)).at(-1)?.reason
  }
  t.equal(await reasonOf(''), null)
  t.equal(await reasonOf('?reason=left%20us'), 'left us')
  t.equal(await reasonOf('', { body: { reason: 'left us' } }), 'left us')
  t.equal(await reasonOf('?reason=left%20us', { body: { reason: 'left us' } }), 'left us')
  t.equal(await reasonOf('', { body: {} }), null)
})

t.test('204: denials that were not written yet are not counted to whoever comes back under the id', async t => {
  const user = newUser()
  await quota.consume(user, 'calls')
  await t.rejects(quota.consume(user, 'calls', 10), { code: 'FST_QUOTA_EXCEEDED' })
  await remove(user)
  await quota.consume(user, 'calls')
  // Writes the denials so far to the database.
  await call('/statistics/calls')
  t.equal((await traces(user)).quota_denials, undefined)
})

t.test('204: the id can be used again, and starts from scratch', async t => {
  const user = await used()
  await call(`/users/${user}`, { method: 'PATCH', body: { email: 'a@b', time_zone: 'Asia/Tokyo' } })
  await quota.adjust(user, 'calls', 500)
  await remove(user)
  t.strictSame(await tally(quota, user), [0, 0, 10])
  await quota.consume(user, 'calls', 1, { idempotencyKey: 'once' })
  t.strictSame(await tally(quota, user), [1, 0, 9])
  t.strictSame(await tally(quota, user, 'storage'), [0, 0, 100])
  t.match(await db.query('SELECT email, time_zone FROM quota_users WHERE id = $1', [user]), [
    { email: null, time_zone: 'UTC' }
  ])
  t.equal((await logsOf(db, user)).length, 1)
  t.equal((await remove(user)).statusCode, 204, 'and can be deleted again')
  t.equal((await auditOf(db, user)).filter(({ action }) => action === 'delete_user').length, 2)
})

t.test('204: deletes only that user, even if the id is special in URLs, SQL, JSON or patterns', async t => {
  const odd = ODD_USERS.filter(id => id.length <= 100)
  const count = async () => (await db.query('SELECT 1 FROM quota_users')).length
  for (const user of odd) await quota.consume(user, 'calls', 2)
  for (const user of odd) {
    const before = await count()
    t.equal((await remove(user)).statusCode, 204, user)
    t.equal(await count(), before - 1)
    t.strictSame(await rowsOf(db, user), {})
  }
})

t.test('204: an open reservation can no longer be committed, and leaves no rows', async t => {
  const user = newUser()
  const late = await quota.reserve(user, [{ type: 'calls', amount: 3 }, 'storage'])
  const given = await quota.reserve(user, 'calls')
  t.equal((await remove(user)).statusCode, 204)
  for (let i = 0; i < 2; i++)
    await t.rejects(late.commit({ amounts: { calls: 9 } }), { code: 'FST_QUOTA_UNKNOWN_USER' })
  await given.release()
  t.strictSame(await rowsOf(db, user), {})
})

t.test('204: an earlier reservation is not charged to a new user with the same id', async t => {
  const user = newUser()
  const late = await quota.reserve(user, [
    { type: 'calls', amount: 3 },
    { type: 'storage', amount: 3 }
  ])
  const given = await quota.reserve(user, [
    { type: 'calls', amount: 1 },
    { type: 'storage', amount: 1 }
  ])
  await remove(user)
  await quota.consume(user, 'calls', 1)
  await late.commit().catch(() => {})
  await given.release()
  t.strictSame(await tally(quota, user), [1, 0, 9])
  t.strictSame(await tally(quota, user, 'storage'), [0, 0, 100])
  t.equal((await logsOf(db, user)).length, 1)
  t.strictSame(await violationsOf(user), [])
})

t.test('204: a request in flight still gets its reply, leaves no row, and counts as dropped', async t => {
  const user = newUser()
  const { reply, go } = await running(user)
  t.equal(await usedBy(db, user), 3)
  t.equal((await remove(user)).statusCode, 204)
  const before = quota.counts()
  go()
  const { statusCode, body } = await reply
  t.strictSame([statusCode, body], [200, 'done'])
  t.strictSame(await rowsOf(db, user), {})
  const { dropped, charged, pending } = quota.counts()
  t.strictSame([dropped, charged, pending], [before.dropped + 1, before.charged, 0])
  t.equal((await call('/health')).json().process.dropped, dropped)
})

t.test('204: a request in flight is not charged to a new user with the same id', async t => {
  const user = newUser()
  const { reply, go } = await running(user)
  await remove(user)
  await quota.consume(user, 'calls', 1)
  go()
  t.equal((await reply).statusCode, 200)
  t.strictSame(await tally(quota, user), [1, 0, 9])
  t.strictSame(await tally(quota, user, 'storage'), [0, 0, 100])
  t.strictSame(await violationsOf(user), [])
})

t.test('400: names the invalid field, and deletes nobody', async t => {
  const user = await used()
  isProblem(t, await remove('a\nb'), 400, { code: 'FST_QUOTA_INVALID_USER', field: 'userId' })
  isProblem(t, await remove(user, '?force=1'), 400, { field: 'force' })
  isProblem(t, await remove(user, '?reason='), 400, { code, field: 'reason' })
  isProblem(t, await remove(user, '?reason=a&reason=b'), 400, { field: 'reason' })
  isProblem(t, await remove(user, '?reason=a', { body: { reason: 'b' } }), 400, { code, field: 'reason' })
  isProblem(t, await remove(user, '', { body: { reason: '' } }), 400, { code, field: 'reason' })
  isProblem(t, await remove(user, '', { body: { reason: 'x'.repeat(1001) } }), 400, { code, field: 'reason' })
  isProblem(t, await remove(user, '', { body: { reason: null } }), 400, { field: 'reason' })
  isProblem(t, await remove(user, '', { body: { user_id: user } }), 400, { field: 'user_id' })
  isProblem(t, await remove(user, '', { body: [] }), 400, { field: 'body' })
  t.strictSame(await tally(quota, user), [5, 2, 3])
  t.notOk((await auditOf(db, user)).some(({ action }) => action === 'delete_user'))
})

t.test('400: says which characters a reason cannot have', async t => {
  const user = await used()
  const refused = (reply: Awaited<ReturnType<typeof remove>>, detail: string) => {
    isProblem(t, reply, 400, { code, field: 'reason' })
    t.equal(reply.json().detail, detail)
  }
  const nul = 'reason has the character U+0000; leave that out.'
  refused(await remove(user, '?reason=a%00b'), nul)
  refused(await remove(user, '', { body: { reason: 'a\0b' } }), nul)
  const half = 'reason has half of a surrogate pair; write the whole character.'
  refused(await remove(user, '', { body: { reason: 'a\ud83d' } }), half)
  t.strictSame(await tally(quota, user), [5, 2, 3])
})

t.test('400 and 415: a body that is invalid or unsafe JSON, or of another content type', async t => {
  const user = await used()
  const send = (type: string, payload: string) =>
    app.inject({
      method: 'DELETE',
      url: `/admin/quotas/users/${user}`,
      headers: { 'x-admin-token': TOKEN, 'content-type': type },
      payload
    })
  isProblem(t, await send('application/json', '{"reason":'), 400, { field: 'body' })
  isProblem(t, await send('application/json', ''), 400, { field: 'body' })
  isProblem(t, await send('application/json', '{"__proto__": {"reason": "x"}}'), 400, { field: 'body' })
  isProblem(t, await send('text/plain', 'because'), 415, { field: 'body' })
  isProblem(t, await send('application/xml', '<reason/>'), 415, { field: 'body' })
  t.strictSame(await tally(quota, user), [5, 2, 3])
})

t.test('403: without the token', async t => {
  const user = await used()
  isProblem(t, await remove(user, '', { token: null }), 403)
  isProblem(t, await remove(user, '', { token: 'wrong' }), 403)
  t.strictSame(await tally(quota, user), [5, 2, 3])
})

t.test('404: a user who was never charged, or is already deleted', async t => {
  const user = newUser()
  isProblem(t, await remove(user), 404, { code: 'FST_QUOTA_UNKNOWN_USER' })
  t.strictSame(await auditOf(db, user), [])
  await quota.consume(user, 'calls', 1)
  t.equal((await remove(user)).statusCode, 204)
  isProblem(t, await remove(user), 404, { code: 'FST_QUOTA_UNKNOWN_USER' })
  t.equal((await auditOf(db, user)).length, 1)
  isAnswer(t, await call(`/audit-logs?user_id=${user}`))
})

t.test('409: a table of the application refers to the user', async t => {
  const user = await used()
  await db.query('CREATE TABLE subscriptions (user_id text REFERENCES quota_users (id))')
  t.teardown(() => db.query('DROP TABLE subscriptions'))
  await db.query('INSERT INTO subscriptions VALUES ($1)', [user])
  const audited = await auditOf(db, user)
  const refused = await remove(user)
  isProblem(t, refused, 409, { code: 'FST_QUOTA_CHANGE_REFUSED' })
  t.match(refused.json().detail, 'SQLSTATE 23503')
  t.notMatch(refused.body, /subscriptions/)
  t.strictSame(await tally(quota, user), [5, 2, 3])
  t.strictSame(await auditOf(db, user), audited)
})

t.test('503: the database does not answer', async t => {
  await db.close()
  isProblem(t, await remove('alice'), 503, { code: 'FST_QUOTA_STORE' })
})
