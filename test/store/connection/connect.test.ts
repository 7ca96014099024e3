import { readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { drizzle } from 'drizzle-orm/postgres-js'
import { Client, Pool } from 'pg'
import postgres from 'postgres'
import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { ensureUser } from '../../../src/store/charge/ensure-user.ts'
import { type Connection, connect, open } from '../../../src/store/connection/connect.ts'
import { rowsOf, transaction } from '../../../src/store/database.ts'
import { Reservations } from '../../../src/store/group/reservations.ts'
import { costing, hold, standing, tryHold, wanted } from '../../fixtures/charges.ts'
import { embeddedDir, freePort, server } from '../../fixtures/database.ts'

const pg = await server(t)

t.test('refuses an invalid connection, says what is expected, and never shows the password', async t => {
  const refused: [unknown, RegExp][] = [
    ['postgresql+asyncpg://me:hunter2@db:5432/app', /postgresql\+asyncpg.*write postgresql:\/\/ instead/],
    ['postgres+psycopg://me:hunter2@db/app', /write postgresql:\/\/ instead/],
    ['mysql://me:hunter2@db/app', /must begin with postgres:\/\//],
    ['./data', /write \{ dataDir \}/],
    ['postgres://me:hunter2 #@db:5432/app', /percent-encoded/],
    ['postgres://me:hunter2@db:port/app', /valid URL/],
    ['postgres://me:hunter2%zz@db:5432/app', /percent-encoded/],
    ['postgres://me:hunter2@db/app?max=0', /max=0; it must be a whole number of at least 1/],
    ['postgres://me:hunter2@db/app?max=ten', /max=ten/],
    ['postgres://me:hunter2@db/app?connect_timeout=', /connect_timeout=; it must be a whole number of at least 0/],
    [{ url: 'postgres://me:hunter2@db/app', max: 1.5 }, /max=1\.5/],
    [{ url: 'mysql://me:hunter2@db/app' }, /must begin with postgres:\/\//],
    [{ url: 5 }, /must be/],
    [{ dataDir: '' }, /must name a directory/],
    [{ dataDir: 5 }, /must name a directory/],
    [{}, /must be/],
    [null, /must be/],
    [5432, /must be/]
  ]
  for (const [connection, message] of refused) {
    const error = await connect(connection as Connection).then(
      () => undefined,
      (error: Error) => error
    )
    t.match(error, { code: 'FST_QUOTA_CONNECTION', message }, JSON.stringify(connection))
    t.notMatch(`${error?.stack} ${JSON.stringify(error)}`, /hunter2/)
  }
  await t.rejects(connect({ dataDir: './data', max: 5 } as Connection), {
    code: 'FST_QUOTA_INVALID_OPTION',
    message: /connection\.max/
  })
})

/** These tests run at once: each waits as long as an application may take to start. */
const WAITING = { timeout: 10_000, buffered: true }
t.jobs = 4

t.test('a port where nothing listens gives FST_QUOTA_UNREACHABLE within 10 seconds', WAITING, async t => {
  const port = await freePort()
  const error = await connect(`postgres://me:hunter2@127.0.0.1:${port}/app`).catch((error: Error) => error)
  t.match(error, { code: 'FST_QUOTA_UNREACHABLE', message: /ECONNREFUSED/ })
  t.notMatch((error as Error).message, /hunter2/)
})

t.test('a server that accepts but never answers gives FST_QUOTA_UNREACHABLE within 10 seconds', WAITING, async t => {
  const silent = createServer(socket => socket.on('error', () => {}))
  await new Promise<void>(resolve => silent.listen(0, '127.0.0.1', resolve))
  t.teardown(() => silent.close())
  const { port } = silent.address() as { port: number }
  await t.rejects(connect(`postgres://me:hunter2@127.0.0.1:${port}/app`), { code: 'FST_QUOTA_UNREACHABLE' })
})

for (const hosts of ['one', 'two'] as const)
  t.test(
    `a proxy that closes every connection gives FST_QUOTA_UNREACHABLE, and is not flooded (${hosts} in the URL)`,
    WAITING,
    async t => {
      let taken = 0
      const closing = createServer(socket => {
        taken += 1
        socket.on('error', () => {})
        socket.end()
      })
      await new Promise<void>(resolve => closing.listen(0, '127.0.0.1', resolve))
      t.teardown(() => closing.close())
      const { port } = closing.address() as { port: number }
      const url = `postgres://me@127.0.0.1:${port}${hosts === 'two' ? `,localhost:${port}` : ''}/app`
      await t.rejects(connect(url), { code: 'FST_QUOTA_UNREACHABLE', message: /ECONNREFUSED|closed/ })
      t.ok(taken < 200, `${taken} attempts`)
      taken = 0
      await sleep(300)
      t.equal(taken, 0, 'no attempt after giving up')
    }
  )

t.test('a wrong password and an unknown database are reported without waiting', { timeout: 4_500 }, async t => {
  const wrong = pg.url().replace('postgres:postgres@', 'postgres:hunter2@')
  const error = await connect(wrong).catch((error: Error) => error)
  t.match(error, { code: 'FST_QUOTA_UNREACHABLE', message: /password authentication failed/ })
  t.notMatch((error as Error).message, /hunter2/)
  await t.rejects(connect(pg.url('nowhere')), { code: 'FST_QUOTA_UNREACHABLE', message: /"nowhere" does not exist/ })
})

t.test('a database without our tables is refused, and the error names the command that creates them', async t => {
  await t.rejects(connect(await pg.empty()), {
    code: 'FST_QUOTA_SCHEMA',
    message: /table quota_\w+.* and \d+ more missing.*npx fastify-quota init/
  })
})

t.test('a missing column is named in the error, and an extra column is accepted', async t => {
  const url = await pg.migrated()
  const sql = postgres(url, { max: 1 })
  t.teardown(() => sql.end())
  await sql`ALTER TABLE usage_logs DROP COLUMN endpoint`
  await t.rejects(connect(url), { code: 'FST_QUOTA_SCHEMA', message: /column usage_logs\.endpoint missing/ })
  await sql`ALTER TABLE usage_logs ADD COLUMN endpoint text, ADD COLUMN of_the_application text`
  await (await connect(url)).close()
})

t.test('a missing unique key is named in the error; its name and column order do not matter', async t => {
  const url = await pg.migrated()
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  const isRefused = (message: RegExp) => t.rejects(connect(url), { code: 'FST_QUOTA_SCHEMA', message })
  await sql`ALTER TABLE usage_logs DROP CONSTRAINT usage_logs_pkey`
  await sql`ALTER TABLE quota_types DROP CONSTRAINT quota_types_type_key_unique`
  await sql`DROP INDEX quota_rollups_key`
  await isRefused(
    /: unique index quota_rollups \(time_zone, day_start\), unique index quota_types \(type_key\), primary key usage_logs \(user_id, id\) missing\. Run/
  )
  await sql`CREATE UNIQUE INDEX ON quota_rollups (day_start, time_zone) INCLUDE (day_end)`
  await sql`CREATE UNIQUE INDEX ON quota_types (type_key)`
  // None of these can serve ON CONFLICT.
  await sql`CREATE INDEX ON usage_logs (user_id, id)`
  await sql`CREATE UNIQUE INDEX ON usage_logs (user_id, id) WHERE amount > 0`
  await sql`CREATE UNIQUE INDEX ON usage_logs (user_id, id, amount)`
  await sql`CREATE UNIQUE INDEX ON usage_logs (lower(user_id), id)`
  await sql`ALTER TABLE usage_logs ADD CONSTRAINT late UNIQUE (user_id, id) DEFERRABLE`
  await isRefused(/: primary key usage_logs \(user_id, id\) missing\. Run/)
  await sql`ALTER TABLE usage_logs DROP CONSTRAINT late`
  await sql`CREATE UNIQUE INDEX ON usage_logs (id, user_id)`
  const db = await connect(url)
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 1 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 1 })), '/a')
  t.strictSame(await standing(db, 'alice', 'calls'), [1, 0, 0])
})

t.test(
  'a role with the rights of the README is accepted; without one of them it is refused, and the missing right is named',
  async t => {
    const url = await pg.migrated()
    const sql = postgres(url, { max: 1 })
    t.teardown(() => sql.end())
    await sql`CREATE ROLE clerk LOGIN PASSWORD 'clerk'`
    const clerk = url.replace('postgres:postgres@', 'clerk:clerk@')
    await t.rejects(connect(clerk), {
      code: 'FST_QUOTA_SCHEMA',
      message: /the role clerk may not .* and \d+ more\. .*GRANT/
    })
    const readme = await readFile(new URL('../../../README.md', import.meta.url), 'utf8')
    const grants = /^```sql\n(GRANT .*?)^```/ms.exec(readme)?.[1] as string
    await sql.unsafe(grants.replaceAll('app_role', 'clerk'))
    await (await connect(clerk)).close()
    for (const [right, table, told] of [
      ['INSERT', 'usage_logs', 'INSERT into usage_logs'],
      ['UPDATE', 'quota_rollups', 'UPDATE quota_rollups'],
      ['SELECT', 'quota_usage_days', 'SELECT from quota_usage_days'],
      ['DELETE', 'quota_reservations', 'DELETE from quota_reservations']
    ] as const) {
      await sql.unsafe(`REVOKE ${right} ON ${table} FROM clerk`)
      await t.rejects(connect(clerk), { code: 'FST_QUOTA_SCHEMA', message: `the role clerk may not ${told}. ` })
      await sql.unsafe(`GRANT ${right} ON ${table} TO clerk`)
    }
    await sql`REVOKE UPDATE ON quota_limits FROM clerk`
    await sql`REVOKE ALL ON quota_migrations FROM clerk`
    await sql`GRANT UPDATE (used_amount, limit_amount, period_start, period_end) ON quota_limits TO clerk`
    await t.rejects(connect(clerk), {
      message: 'the role clerk may not UPDATE quota_limits (last_held_amount, updated_at). '
    })
    await sql`GRANT UPDATE (last_held_amount, updated_at) ON quota_limits TO clerk`
    const db = await connect(clerk)
    t.teardown(() => db.close())
    await declareTypes(db, { calls: { limit: 1 } })
    const charges = await wanted(db, { calls: 1 })
    await ensureUser(db, 'alice')
    t.match(await new Reservations(db, 20_000).reserve('alice', charges, 60_000), { admitted: true })
  }
)

t.test(
  'a role for whom row level security hides rows or blocks writes is refused, since it would serve without charging',
  async t => {
    const url = await pg.migrated()
    const sql = postgres(url, { max: 1, onnotice: () => {} })
    t.teardown(() => sql.end())
    await sql`CREATE ROLE guarded LOGIN PASSWORD 'guarded'`
    const guarded = url.replace('postgres:postgres@', 'guarded:guarded@')
    await sql`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guarded`
    await sql`ALTER TABLE usage_logs ENABLE ROW LEVEL SECURITY`
    await sql`ALTER TABLE quota_types ENABLE ROW LEVEL SECURITY`
    await (await connect(url)).close()
    await t.rejects(connect(guarded), {
      code: 'FST_QUOTA_SCHEMA',
      message:
        /guarded may not SELECT from quota_types, .* and 3 more: row level security is on.*ALTER TABLE quota_types DISABLE/
    })
    await sql`CREATE POLICY all_types ON quota_types USING (true)`
    await sql`CREATE POLICY log_reads ON usage_logs FOR SELECT TO guarded USING (true)`
    await sql`CREATE POLICY log_writes ON usage_logs TO postgres USING (true)`
    await t.rejects(connect(guarded), { message: /may not INSERT into usage_logs, DELETE from usage_logs: row level/ })
    await sql`ALTER POLICY log_writes ON usage_logs TO guarded`
    await (await connect(guarded)).close()
  }
)

t.test("close() leaves the application's own Drizzle database open", async t => {
  const sql = postgres(await pg.migrated(), { max: 1 })
  t.teardown(() => sql.end())
  const db = await connect(drizzle(sql))
  await db.close()
  t.equal((await db.query<{ one: number }>('SELECT 1 AS one'))[0]?.one, 1)
})

t.test('a Drizzle database on a single pg Client is refused, and on a Pool of any size accepted', async t => {
  const url = await pg.migrated()
  const client = new Client(url)
  await client.connect()
  t.teardown(() => client.end())
  await t.rejects(connect(drizzlePg(client)), {
    code: 'FST_QUOTA_CONNECTION',
    message: /single connection.*give it a pool/
  })
  for (const max of [1, 2]) {
    const pool = new Pool({ connectionString: url, max })
    t.teardown(() => pool.end())
    await (await connect(drizzlePg(pool))).close()
  }
})

t.test('a Drizzle client that renames columns is refused, and the transform option has no effect', async t => {
  const url = await pg.migrated()
  const client = postgres(url, { max: 1, transform: postgres.camel })
  t.teardown(() => client.end())
  await t.rejects(connect(drizzle(client)), { code: 'FST_QUOTA_CONNECTION', message: /postgres\.camel/ })
  const db = await connect({ url, transform: postgres.camel })
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 1 } })
  t.match(await hold(db, 'alice', { calls: 1 }), [{ type: 'calls', amount: 1 }])
  t.match(await tryHold(db, 'alice', { calls: 1 }), { admitted: false })
})

t.test('refuses a Drizzle client or URL with an isolation above READ COMMITTED, and says what to do', async t => {
  const url = await pg.migrated()
  const database = new URL(url).pathname.slice(1)
  const admin = postgres(url, { max: 1 })
  t.teardown(() => admin.end())
  for (const isolation of ['repeatable read', 'serializable']) {
    await admin.unsafe(`ALTER DATABASE ${database} SET default_transaction_isolation = '${isolation}'`)
    const client = postgres(url, { max: 1 })
    t.teardown(() => client.end())
    await t.rejects(connect(drizzle(client)), {
      code: 'FST_QUOTA_CONNECTION',
      message: `runs statements as ${isolation.toUpperCase()}, `
    })
    // Our own connections set the level that they need.
    await (await connect(url)).close()
  }
  await t.rejects(connect(`${url}?default_transaction_isolation=serializable`), {
    code: 'FST_QUOTA_CONNECTION',
    message: /set default_transaction_isolation to 'read committed'/
  })
  const client = postgres(url, { max: 1, connection: { default_transaction_isolation: 'read committed' } })
  t.teardown(() => client.end())
  await (await connect(drizzle(client))).close()
})

t.test("the option `connection` sets the server's parameters, but none that statements rely on", async t => {
  const own = { application_name: 'billing', jit: 'on', statement_timeout: 1, plan_cache_mode: 'force_custom_plan' }
  const db = await connect({ url: await pg.migrated(), max: 1, connection: own })
  t.teardown(() => db.close())
  const show = `SELECT current_setting('application_name') AS name, current_setting('jit') AS jit, current_setting('statement_timeout') AS "timeout",
                       current_setting('plan_cache_mode') AS plans`
  if (db.kind !== 'postgres') throw new Error('no server')
  for (const { query } of [db, db.metering, db.holding, db.charging]) {
    const [row] = await query<{ name: string; jit: string; timeout: string; plans: string }>(show)
    t.match(row, { name: 'billing', jit: 'off' })
    t.notMatch(row!.timeout, /^1ms$/)
  }
  const [shared] = await db.holding.query<{ plans: string }>(show)
  t.equal(shared!.plans, 'force_generic_plan')
})

t.test('the role may set how floats and arrays are written, and statements read and write them whole', async t => {
  const url = await pg.migrated()
  const admin = postgres(url, { max: 1 })
  t.teardown(() => admin.end())
  const name = new URL(url).pathname.slice(1)
  for (const setting of ['extra_float_digits = -3', 'array_nulls = off'])
    await admin.unsafe(`ALTER ROLE postgres IN DATABASE ${name} SET ${setting}`)
  t.teardown(() => admin.unsafe(`ALTER ROLE postgres IN DATABASE ${name} RESET ALL`))
  const db = await connect(url)
  t.teardown(() => db.close())
  const text = `SELECT 1795514400123.4::float8 AS ms, ('{null}'::text[])[1] IS NULL AS "isNull"`
  const expected = [{ ms: 1_795_514_400_123.4, isNull: true }]
  const { query, metering, holding, charging } = db
  for (const run of [query, metering.query, holding.query, charging.query])
    t.strictSame([...(await run(text))], expected)
  t.strictSame([...(await transaction(db, run => run(text)))], expected)
  for await (const rows of db.stream!(text, [], 10)) t.strictSame(rows, expected)
})

t.test(
  'the error of a statement carries its SQLSTATE, and its message shows neither the SQL text nor the values',
  async t => {
    const url = await pg.migrated()
    const client = postgres(url, { max: 1 })
    t.teardown(() => client.end())
    for (const db of [await connect(url), await connect(drizzle(client))]) {
      const error = await db
        .query('SELECT $1::text::int AS secret_column', ['confidential'])
        .catch((error: Error) => error)
      t.match(error, { code: 'FST_QUOTA_STORE', cause: { code: '22P02' } })
      t.notMatch((error as Error).message, /secret_column|confidential/)
      await db.close()
    }
  }
)

t.test('a damaged directory is named in the error, and is not left locked', async t => {
  for (const file of ['global/pg_control', 'PG_VERSION']) {
    const dataDir = await embeddedDir(t)
    await writeFile(join(dataDir, file), '')
    for (const _ of ['once', 'again'])
      await t.rejects(connect({ dataDir }), {
        code: 'FST_QUOTA_DIRECTORY_UNREADABLE',
        message: `database in ${dataDir} cannot be opened: `,
        cause: Error
      })
  }
})

t.test('a statement that takes longer than its deadline is given up', async t => {
  const db = await open(pg.url(), { deadlineMs: 300 })
  await t.rejects(db.query('SELECT pg_sleep(2)'), { code: 'FST_QUOTA_STORE', message: /no answer within 300 ms/ })
  await db.close()
})

t.test('a statement that fails after some rows does not affect the rows of the next one', async t => {
  const client = postgres(pg.url(), { max: 1, onnotice: () => {} })
  t.teardown(() => client.end())
  for (const db of [await open({ url: pg.url(), max: 1 }), await open(drizzle(client))]) {
    const broken = db.query('SELECT 1 / (3 - n) AS row FROM generate_series(1, 3) n')
    await t.rejects(broken, { cause: { code: '22012' } }, 'after two rows')
    t.strictSame([...(await db.query('SELECT n FROM generate_series(1, 2) n'))], [{ n: 1 }, { n: 2 }], db.kind)
    t.strictSame([...(await db.query('SELECT 1 AS row'))], [{ row: 1 }])
    await db.close()
  }
})

t.test('a statement that was never answered fails, instead of giving no rows', async t => {
  // What postgres.js resolves a statement with when its connection is reset at the wrong moment.
  const unanswered = Object.assign([], { command: null })
  t.throws(() => rowsOf(unanswered), { code: 'FST_QUOTA_STORE' })
  t.strictSame(rowsOf(Object.assign([], { command: 'SELECT' })), [])
  t.strictSame(rowsOf({ rows: [1] }), [1])
})
