import Fastify, { type FastifyRequest } from 'fastify'
import postgres from 'postgres'
import t from 'tap'
import quotaPlugin, { type QuotaOptions } from '../../src/index.ts'
import { connect } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { server } from '../fixtures/database.ts'
import { until } from '../fixtures/ledger.ts'
import { ask, byHeader, logsOf, newUser, QUOTAS, usedBy } from '../fixtures/metered.ts'

const pg = await server(t)

/** An application on a database of its own, the URL of that database, and the lines that the application logs. */
async function application(t: import('tap').Test, options: QuotaOptions = {}) {
  const url = await pg.migrated()
  const lines: {
    level: number
    msg: string
    err?: { code?: string; message?: string }
    user?: string
    pending?: number
  }[] = []
  const app = Fastify({
    logger: { level: 'info', stream: { write: (line: string) => void lines.push(JSON.parse(line)) } }
  })
  await app.register(quotaPlugin, { connection: url, quotas: QUOTAS, identify: byHeader, ...options })
  app.get('/work', { config: { quota: 'calls' } }, async () => 'x')
  app.get('/open', { config: { quota: { type: 'calls', storeFailure: 'open' } } }, async request => {
    request.quota.setAmount('calls', 3)
    return 'x'
  })
  t.teardown(() => app.close())
  return { app, url, lines }
}

t.test(
  'answers 503 while the store is down, lets fail-open routes through, and works again without a restart',
  async t => {
    const { app, url, lines } = await application(t)
    const user = newUser()
    t.equal((await ask(app, user, '/work')).statusCode, 200)
    await pg.instance.stop()
    const closed = await ask(app, user, '/work')
    t.equal(closed.statusCode, 503)
    t.match(closed.headers, { 'content-type': /^application\/problem\+json/, 'retry-after': /^[1-9]\d*$/ })
    t.match(closed.json(), { status: 503, code: 'FST_QUOTA_STORE' })
    t.notMatch(closed.body, /ECONN|postgres|127\.0\.0\.1/)
    t.equal(closed.headers['x-quota-remaining'], undefined, 'no number is better than a wrong one')
    const open = await ask(app, user, '/open')
    t.equal(open.statusCode, 200)
    t.equal(open.headers['x-quota-remaining'], undefined)
    t.equal((await app.inject({ url: '/quotas/me', headers: { 'x-user': user } })).statusCode, 503)
    await t.rejects(app.quota.consume(user, 'calls'), { code: 'FST_QUOTA_STORE' })
    t.match(
      lines.find(line => line.msg.startsWith('quota store failed')),
      { level: 50, user, err: { code: 'FST_QUOTA_STORE' } }
    )
    t.match(
      lines.find(line => line.msg.startsWith('quota not enforced')),
      { level: 50, user }
    )
    t.match(app.quota.counts(), { charged: 1, unenforced: 1, 'store-failed': 1 })
    await pg.instance.start()
    for (let i = 0; i < 100 && (await ask(app, user, '/work')).statusCode !== 200; i++)
      await new Promise(resolve => setTimeout(resolve, 50))
    const db = await connect(url)
    t.teardown(() => db.close())
    t.equal((await logsOf(db, user)).length, 2)
    t.equal(await usedBy(db, user), 2)
  }
)

for (const path of ['/work', '/both'])
  t.test(
    `requests to ${path} that wait behind others of their user do not fail open, and do not hold up other users`,
    async t => {
      const { app, url } = await application(t, { storeTimeoutMs: 1000, storeFailure: 'open' })
      app.get('/both', { config: { quota: ['calls', 'tokens'] } }, async () => 'x')
      const [hot, other] = [newUser(), newUser()]
      await ask(app, hot, path)
      const sql = postgres(url, { max: 1 })
      t.teardown(() => sql.end())
      await sql`BEGIN`
      await sql`SELECT 1 FROM quota_limits WHERE user_id = ${hot} FOR UPDATE`
      const asked = Array.from({ length: 100 }, () => ask(app, hot, path))
      t.equal((await ask(app, other, path)).statusCode, 200)
      const statuses = (await Promise.all(asked)).map(({ statusCode }) => statusCode)
      await sql`ROLLBACK`
      // Only those that the database was asked for, and that it did not answer in time, are failures of the store.
      const { unenforced } = app.quota.counts()
      t.ok(unenforced <= 10, `${unenforced} unenforced`)
      t.equal(statuses.filter(status => status === 503).length, 100 - unenforced)
    }
  )

t.test('simultaneous requests of one user for /quotas/me take one connection', async t => {
  const { app, url } = await application(t)
  const user = newUser()
  await ask(app, user, '/work')
  const sql = postgres(url, { max: 1 })
  t.teardown(() => sql.end())
  await sql`BEGIN`
  await sql`LOCK TABLE quota_limits`
  const looks = Array.from({ length: 20 }, () => app.inject({ url: '/quotas/me', headers: { 'x-user': user } }))
  let waiting = 0
  while (waiting === 0) {
    const rows =
      await sql`SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
    waiting = rows.length
  }
  t.equal(waiting, 1)
  await sql`ROLLBACK`
  for (const look of await Promise.all(looks)) {
    t.equal(look.statusCode, 200)
    t.match(look.json().quotas, [{ type_key: 'calls', used: 1 }])
  }
})

t.test("a user's own view gives up on the store sooner than an operator's view of that user", async t => {
  const token = 'the-admin-token-of-this-test'
  const { app, url } = await application(t, { admin: { token }, storeTimeoutMs: 200 })
  const user = newUser()
  await ask(app, user, '/work')
  const sql = postgres(url, { max: 1 })
  t.teardown(() => sql.end())
  await sql`BEGIN`
  await sql`LOCK TABLE quota_limits`
  const answered: string[] = []
  const answer = async (name: string, asked: Promise<{ statusCode: number }>) => {
    t.equal((await asked).statusCode, 503)
    answered.push(name)
  }
  await Promise.all([
    answer('operator', app.inject({ url: `/admin/quotas/users/${user}`, headers: { 'x-admin-token': token } })),
    answer('user', app.inject({ url: '/quotas/me', headers: { 'x-user': user } }))
  ])
  t.strictSame(answered, ['user', 'operator'])
  await sql`ROLLBACK`
})

t.test('an amount function that fails because of the store is treated as a store failure', async t => {
  const url = await pg.migrated()
  const app = Fastify()
  await app.register(quotaPlugin, { connection: url, quotas: QUOTAS, identify: byHeader, storeTimeoutMs: 200 })
  const amount = async (request: FastifyRequest) =>
    Math.min(await app.quota.remaining(request.headers['x-user'] as string, 'calls'), 2)
  for (const storeFailure of ['closed', 'open'] as const)
    app.get(`/${storeFailure}`, { config: { quota: { type: 'calls', amount, storeFailure } } }, async () => 'x')
  t.teardown(() => app.close())
  const user = newUser()
  t.match((await ask(app, user, '/closed')).headers, { 'x-quota-cost': '2' })
  const sql = postgres(url, { max: 1 })
  t.teardown(() => sql.end())
  await sql`BEGIN`
  await sql`LOCK TABLE quota_limits`
  t.equal((await ask(app, user, '/closed')).statusCode, 503)
  t.equal((await ask(app, user, '/open')).statusCode, 200)
  t.match(app.quota.counts(), { 'store-failed': 1, unenforced: 1 })
  await sql`ROLLBACK`
})

t.test(
  'keeps a charge that cannot be written after the handler succeeded, and writes it exactly once, even during a close',
  async t => {
    for (const isClosing of [false, true]) {
      const { app, url, lines } = await application(t)
      app.get('/turned', { config: { quota: 'calls' } }, async (_, reply) => reply.header('x-bad', 'a\r\nb').send('x'))
      const user = newUser()
      const sql = postgres(url, { max: 1, onnotice: () => {} })
      t.teardown(() => sql.end())
      await ask(app, user, '/work')
      // The log cannot be written to; reservations still can be made.
      await sql`ALTER TABLE usage_logs RENAME TO usage_logs_away`
      await sql`CREATE TABLE usage_logs (LIKE usage_logs_away INCLUDING ALL)`
      await sql`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '53100'; END $$`
      await sql`CREATE TRIGGER refuse BEFORE INSERT ON usage_logs FOR EACH ROW EXECUTE FUNCTION refuse()`
      const response = await ask(app, user, '/work')
      t.equal(response.statusCode, 200)
      t.match(response.headers, { 'x-quota-used': '2', 'x-quota-cost': '1' })
      t.match(
        lines.find(line => line.msg.startsWith('quota settlement could not be written')),
        { level: 50, user, pending: 1 }
      )
      t.equal(
        (await ask(app, user, '/turned')).statusCode,
        500,
        'a reply that failed after its charge does not wait for owed writes'
      )
      const repair = async () => {
        await sql`DROP TABLE usage_logs`
        await sql`ALTER TABLE usage_logs_away RENAME TO usage_logs`
      }
      if (isClosing) await Promise.all([app.close(), new Promise(resolve => setTimeout(resolve, 300)).then(repair)])
      else await repair()
      const db = await connect(url)
      t.teardown(() => db.close())
      // The reply that failed has a row until its charge is undone, after the owed writes.
      for (let i = 0; !isClosing && i < 100 && (await logsOf(db, user)).length !== 2; i++)
        await new Promise(resolve => setTimeout(resolve, 50))
      t.equal((await logsOf(db, user)).length, 2)
      t.equal(await usedBy(db, user), 2)
    }
  }
)

t.test(
  'gives up a charge or an amount that the database will never take, says so in the log, and holds nothing for it',
  async t => {
    const { app, url, lines } = await application(t, { reservationTtlMs: 1_000 })
    let set = (_: number) => {}
    app.get('/late', { config: { quota: 'calls' } }, async request => {
      set = amount => request.quota.setAmount('calls', amount)
      return 'x'
    })
    const user = newUser()
    await ask(app, user, '/late')
    const sql = postgres(url, { max: 1, onnotice: () => {} })
    t.teardown(() => sql.end())
    await sql`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '23503'; END $$`
    await sql`CREATE TRIGGER refuse BEFORE INSERT ON usage_logs FOR EACH ROW EXECUTE FUNCTION refuse()`
    t.equal((await ask(app, user, '/work')).statusCode, 200)
    const given = () => lines.filter(line => line.msg === 'quota settlement was given up')
    t.match(given(), [{ level: 50, user }])
    t.match(app.quota.counts(), { charged: 1, dropped: 1, pending: 0 })
    set(7)
    await until('the amount is given up', 10_000, async () => given().length === 2)
    t.match(app.quota.counts(), { charged: 1, amended: 0, dropped: 2, pending: 0 })
    await until('nothing is held', 10_000, async () => (await app.quota.check(user, 'calls')).reserved === 0)
    t.equal((await app.quota.check(user, 'calls')).used, 1)
  }
)

t.test('answers 503 while another session has locked the row, and gives back what the late statement took', async t => {
  const { app, url } = await application(t)
  const user = newUser()
  await ask(app, user, '/work')
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  let release = () => {}
  const locked = sql.begin(async tx => {
    await tx`SELECT 1 FROM quota_limits FOR UPDATE`
    await new Promise<void>(resolve => {
      release = resolve
    })
  })
  while ((await sqlLocks(url)) === 0);
  t.equal((await ask(app, user, '/work')).statusCode, 503)
  release()
  await locked
  const db = await connect(url)
  t.teardown(() => db.close())
  t.equal((await logsOf(db, user)).length, 1)
  t.equal(await usedBy(db, user), 1, 'what the late statement took was given back')
})

async function sqlLocks(url: string): Promise<number> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  const rows = await sql`SELECT 1 FROM pg_locks WHERE mode = 'RowShareLock' AND relation = 'quota_limits'::regclass`
  await sql.end()
  return rows.length
}

t.test(
  'an amount set after the reply while the store is down is written once it is back, and the last one set counts',
  async t => {
    const { app, url } = await application(t)
    let set = (_: number) => {}
    app.get('/late', { config: { quota: { type: 'tokens', amount: 1 } } }, async request => {
      set = amount => request.quota.setAmount('tokens', amount)
      return 'x'
    })
    const [user, other] = [newUser(), newUser()]
    t.equal((await ask(app, user, '/late')).statusCode, 200)
    const back = set
    t.equal((await ask(app, other, '/late')).statusCode, 200)
    await pg.instance.stop()
    back(50)
    set(50)
    await until('both are owed', 10_000, async () => app.quota.counts().owed === 2)
    t.match(app.quota.counts(), { charged: 2, owed: 2, amended: 0 })
    back(1)
    await pg.instance.start()
    const db = await connect(url)
    t.teardown(() => db.close())
    await until('it is written', 10_000, async () => (await usedBy(db, other, 'tokens')) === 50)
    t.match(await logsOf(db, other), [{ type: 'tokens', amount: 50 }])
    t.equal(await usedBy(db, other, 'tokens'), 50)
    await until('it is amended', 10_000, async () => app.quota.counts().amended === 1)
    t.match(await logsOf(db, user), [{ type: 'tokens', amount: 1 }])
    t.equal(await usedBy(db, user, 'tokens'), 1)
    t.match(app.quota.counts(), { owed: 2, amended: 1, dropped: 0 })
  }
)

t.test('answers 503 while ten thousand charges are owed, and then writes them many to a statement', async t => {
  const { app, url, lines } = await application(t, { storeTimeoutMs: 300 })
  app.get('/free', { config: { quota: 'free' } }, async () => 'x')
  const user = newUser()
  t.equal((await ask(app, user, '/free')).statusCode, 200)
  const db = await connect(url)
  t.teardown(() => db.close())
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  await sql`BEGIN`
  await sql`LOCK TABLE usage_logs IN EXCLUSIVE MODE`
  let charged = 1
  for (let i = 0; i < 100 && app.quota.counts().pending < 10_000; i++) {
    const replies = await Promise.all(Array.from({ length: 500 }, () => ask(app, user, '/free')))
    charged += replies.filter(({ statusCode }) => statusCode === 200).length
  }
  t.ok(app.quota.counts().pending >= 10_000)
  const refused = await ask(app, user, '/free')
  t.equal(refused.statusCode, 503)
  t.match(refused.json(), { code: 'FST_QUOTA_STORE' })
  t.ok(lines.some(({ err }) => err?.message?.includes('too many charges are waiting to be written')))
  const before = await committed(db)
  await sql`ROLLBACK`
  await until('nothing is owed', 60_000, async () => app.quota.counts().pending === 0)
  const [row] = await db.query<{ n: number }>('SELECT count(*)::int AS n FROM usage_logs')
  t.equal(row!.n, charged)
  t.ok((await committed(db)) - before < 5_000)
  t.equal((await ask(app, user, '/free')).statusCode, 200)
})

/** How many transactions this database has committed. */
async function committed(db: Database): Promise<number> {
  await db.query('SELECT pg_stat_force_next_flush()')
  const [row] = await db.query<{ n: number }>(
    'SELECT xact_commit::int AS n FROM pg_stat_database WHERE datname = current_database()'
  )
  return row!.n
}
