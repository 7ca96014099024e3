import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import quotaPlugin from '../../src/index.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { findDiscrepancies } from '../../src/store/operator/reconcile.ts'
import { server } from '../fixtures/database.ts'
import { until } from '../fixtures/ledger.ts'
import { untilIdle, untilWaiting } from '../fixtures/lock-waits.ts'
import { ask, byHeader, logsOf, metered, newUser, usedBy } from '../fixtures/metered.ts'

const pg = await server(t, [
  '-c',
  'fsync=off',
  '-c',
  'max_connections=200',
  '-c',
  'shared_preload_libraries=pg_stat_statements',
  '-c',
  'pg_stat_statements.track=all'
])

/** A database of the test's own, a connection to it beside the application's, and a session that can hold locks. */
async function database(t: Test) {
  const url = await pg.migrated()
  const db = await connect(url)
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => Promise.all([db.close(), sql.end({ timeout: 1 })]))
  return { url, db, sql }
}

t.test('charges exactly 100 of 1 000 requests that three processes get at once', async t => {
  const url = await pg.migrated()
  const script = fileURLToPath(new URL('../fixtures/server.ts', import.meta.url))
  const processes = await Promise.all(
    [1, 2, 3].map(async () => {
      const child = fork(script, [url], { execArgv: process.execArgv })
      t.teardown(() => child.kill())
      const [port] = (await once(child, 'message')) as [number]
      return port
    })
  )
  const statuses = await Promise.all(
    Array.from(
      { length: 1000 },
      async (_, i) =>
        (await fetch(`http://127.0.0.1:${processes[i % 3]}/work`, { headers: { 'x-user': 'alice' } })).status
    )
  )
  t.equal(statuses.filter(status => status === 200).length, 100)
  t.equal(statuses.filter(status => status === 402).length, 900)
  const db = await connect(url)
  t.teardown(() => db.close())
  const [row] = await db.query(
    'SELECT (SELECT count(*)::int FROM usage_logs) AS logs, (SELECT count(*)::int FROM quota_reservations) AS held, used_amount::int AS used FROM quota_limits'
  )
  t.same(row, { logs: 100, held: 0, used: 100 })
  t.same(await findDiscrepancies(db), [])
})

t.test('takes one statement before the handler and one after it, even for several charges', async t => {
  const url = await pg.migrated()
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  await sql`CREATE EXTENSION pg_stat_statements`
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(quotaPlugin, {
    connection: url,
    // How fast this machine answers is not what is tested here.
    storeTimeoutMs: 30_000,
    quotas: { calls: { limit: 1000 }, tokens: { limit: 1000 } },
    identify: byHeader
  })
  const statements = async () => {
    const rows = await sql<{ calls: number }[]>`
      SELECT sum(calls)::int AS calls FROM pg_stat_statements
       WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND toplevel
         AND query NOT ILIKE '%pg_stat_statements%' AND query ~ 'quota_'`
    return rows[0]?.calls ?? 0
  }
  let inHandler = 0
  app.get('/one', { config: { quota: 'calls' } }, async () => {
    inHandler = await statements()
    return 'x'
  })
  app.get('/two', { config: { quota: ['calls', 'tokens'] } }, async () => {
    inHandler = await statements()
    return 'x'
  })
  app.get('/fails', { config: { quota: 'calls' } }, async () => {
    throw new Error('planted')
  })
  await app.inject({ url: '/two', headers: { 'x-user': 'alice' } })
  for (const url of ['/one', '/two']) {
    await sql`SELECT pg_stat_statements_reset()`
    t.equal((await app.inject({ url, headers: { 'x-user': 'alice' } })).statusCode, 200)
    t.equal(inHandler, 1, `${url}: one before the handler`)
    t.equal(await statements(), 2, `${url}: one after it`)
  }
  await sql`SELECT pg_stat_statements_reset()`
  await app.inject({ url: '/fails', headers: { 'x-user': 'alice' } })
  t.equal(await statements(), 2)
  await sql`UPDATE quota_limits SET limit_amount = 0`
  await sql`SELECT pg_stat_statements_reset()`
  t.equal((await app.inject({ url: '/one', headers: { 'x-user': 'alice' } })).statusCode, 402)
  t.equal(await statements(), 1, 'a denial is one')
})

t.test(
  'renews nothing for requests that are over, even if their charge or release could not be written at first',
  async t => {
    const { url, db, sql } = await database(t)
    await sql`CREATE EXTENSION pg_stat_statements`
    const renewals = async () => {
      const rows = await sql<{ calls: number }[]>`
        SELECT coalesce(sum(calls), 0)::int AS calls FROM pg_stat_statements
         WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query LIKE '%SET expires_at%'`
      return rows[0]!.calls
    }
    const app = Fastify()
    t.teardown(() => app.close())
    const options = { connection: url, quotas: { calls: { limit: 1000 } }, identify: byHeader }
    await app.register(quotaPlugin, { ...options, reservationTtlMs: 1_000 })
    const work = { config: { quota: 'calls' } }
    app.get('/long', work, async () => {
      while ((await renewals()) === 0);
      return 'x'
    })
    app.get('/work', work, async () => 'x')
    app.get('/fails', work, async () => Promise.reject(new Error('planted')))
    app.get('/owed/:status', work, async (request, reply) => {
      await sql`BEGIN`
      await sql`LOCK TABLE quota_reservations IN SHARE MODE`
      return reply.code(Number((request.params as { status: string }).status)).send('x')
    })
    for (const path of ['/long', '/work', '/fails', '/owed/200', '/owed/500']) {
      await ask(app, 'alice', path)
      if (path.startsWith('/owed')) {
        t.equal(app.quota.counts().pending, 1, path)
        await sql`ROLLBACK`
      }
      await until('it is written', 10_000, async () => app.quota.counts().pending === 0)
      // A renewal may have waited for the lock, too.
      await untilIdle(db)
      await sql`SELECT pg_stat_statements_reset()`
      await sleep(1_000)
      t.equal(await renewals(), 0, path)
    }
  }
)

t.test('an amount that is set while an earlier one is being written takes its place', async t => {
  const { url, db, sql } = await database(t)
  let set = (_: number) => {}
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/late', { config: { quota: 'tokens' } }, async request => {
        set = amount => request.quota.setAmount('tokens', amount)
        return 'x'
      }),
    { connection: url, storeTimeoutMs: 30_000 }
  )
  const user = newUser()
  t.equal((await ask(app, user, '/late')).statusCode, 200)
  await sql`BEGIN`
  await sql`SELECT 1 FROM quota_limits FOR UPDATE`
  set(50)
  await untilWaiting(db)
  set(1)
  await sql`ROLLBACK`
  await until('both are written', 10_000, async () => app.quota.counts().amended === 2)
  t.match(await logsOf(db, user), [{ type: 'tokens', amount: 1 }])
  t.equal(await usedBy(db, user, 'tokens'), 1)
})

t.test(
  'an amount that is set while the charge is being written is logged as amended, and not as charged before',
  async t => {
    const { url, db, sql } = await database(t)
    const lines: { msg: string; amount?: number }[] = []
    const app = Fastify({ logger: { stream: { write: (line: string) => void lines.push(JSON.parse(line)) } } })
    t.teardown(() => app.close())
    await app.register(quotaPlugin, {
      connection: url,
      quotas: { tokens: { limit: 1000 } },
      identify: byHeader,
      storeTimeoutMs: 30_000
    })
    let set = (_: number) => {}
    app.get('/late', { config: { quota: 'tokens' } }, async request => {
      set = amount => request.quota.setAmount('tokens', amount)
      return 'x'
    })
    const user = newUser()
    await ask(app, user, '/late')
    await sql`BEGIN`
    await sql`LOCK TABLE usage_logs IN EXCLUSIVE MODE`
    lines.length = 0
    const reply = ask(app, user, '/late')
    await untilWaiting(db)
    set(50)
    await sql`ROLLBACK`
    t.equal((await reply).statusCode, 200)
    await until('it is amended', 10_000, async () => app.quota.counts().amended === 1)
    t.strictSame(
      lines.filter(({ msg }) => msg.startsWith('quota')).map(({ msg, amount }) => [msg, amount]),
      [
        ['quota charged', 1],
        ['quota charge amended to its actual cost', 50]
      ]
    )
    t.equal(await usedBy(db, user, 'tokens'), 51)
  }
)
