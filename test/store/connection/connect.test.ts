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
import { type Connection, connect, open } from '../../../src/store/connection/connect.ts'
import { rowsOf } from '../../../src/store/database.ts'
import { costing, hold, standing, tryHold } from '../../fixtures/charges.ts'
import { embeddedDir, freePort, server } from '../../fixtures/database.ts'

const pg = await server(t)

t.test('refuses what is no connection, says what to write, and never the password', async t => {
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

/** All at once: each waits for as long as a boot does. */
const WAITING = { timeout: 10_000, buffered: true }
t.jobs = 4

t.test('a port where nobody listens is FST_QUOTA_UNREACHABLE, within 10 seconds', WAITING, async t => {
  const port = await freePort()
  const error = await connect(`postgres://me:hunter2@127.0.0.1:${port}/app`).catch((error: Error) => error)
  t.match(error, { code: 'FST_QUOTA_UNREACHABLE', message: /ECONNREFUSED/ })
  t.notMatch((error as Error).message, /hunter2/)
})

t.test('so is a server that takes the connection and never answers', WAITING, async t => {
  const silent = createServer(socket => socket.on('error', () => {}))
  await new Promise<void>(resolve => silent.listen(0, '127.0.0.1', resolve))
  t.teardown(() => silent.close())
  const { port } = silent.address() as { port: number }
  await t.rejects(connect(`postgres://me:hunter2@127.0.0.1:${port}/app`), { code: 'FST_QUOTA_UNREACHABLE' })
})

for (const hosts of ['one', 'two'] as const)
  t.test(
    `so is a proxy that closes what it takes (${hosts} in the URL), which is not tried again and again`,
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
      t.ok(taken < 200, `${taken} times`)
      taken = 0
      await sleep(300)
      t.equal(taken, 0, 'nor when it was given up')
    }
  )

t.test('a wrong password and an unknown database are said without waiting', { timeout: 4_500 }, async t => {
  const wrong = pg.url().replace('postgres:postgres@', 'postgres:hunter2@')
  const error = await connect(wrong).catch((error: Error) => error)
  t.match(error, { code: 'FST_QUOTA_UNREACHABLE', message: /password authentication failed/ })
  t.notMatch((error as Error).message, /hunter2/)
  await t.rejects(connect(pg.url('nowhere')), { code: 'FST_QUOTA_UNREACHABLE', message: /"nowhere" does not exist/ })
})

t.test('a database without our tables is refused, with the command that makes them', async t => {
  await t.rejects(connect(await pg.empty()), {
    code: 'FST_QUOTA_SCHEMA',
    message: /table quota_\w+.* and \d+ more missing.*npx fastify-quota init/
  })
})

t.test('a column that is missing is named', async t => {
  const url = await pg.migrated()
  const sql = postgres(url, { max: 1 })
  t.teardown(() => sql.end())
  await sql`ALTER TABLE usage_logs DROP COLUMN endpoint`
  await t.rejects(connect(url), { code: 'FST_QUOTA_SCHEMA', message: /column usage_logs\.endpoint missing/ })
  await sql`ALTER TABLE usage_logs ADD COLUMN endpoint text, ADD COLUMN of_the_application text`
  await (await connect(url)).close()
})

t.test('a key that statements find rows by is named where it is missing; its name and order are free', async t => {
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
  // What ON CONFLICT passes over.
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
  'a role with the rights of the README is let in; without one of them it is refused, and what it may not do is named',
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
    await sql`GRANT UPDATE (used_amount, limit_amount) ON quota_limits TO clerk`
    await sql`REVOKE ALL ON quota_migrations FROM clerk`
    await (await connect(clerk)).close()
  }
)

t.test(
  'a role for whom row level security hides rows, or takes none, is refused: it would serve and never charge',
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

t.test("the application's own Drizzle database stays open", async t => {
  const sql = postgres(await pg.migrated(), { max: 1 })
  t.teardown(() => sql.end())
  const db = await connect(drizzle(sql))
  await db.close()
  t.equal((await db.query<{ one: number }>('SELECT 1 AS one'))[0]?.one, 1)
})

t.test('a Drizzle database whose transactions take in what others ask is refused, and a pool is not', async t => {
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

t.test('columns keep their names: a client that renames them is refused, and the option has no effect', async t => {
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

t.test('a default isolation above READ COMMITTED is refused, and what to do is said', async t => {
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
    // Ours ask for what they need.
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

t.test('an error of a statement carries its SQLSTATE, and neither its values nor its text in the message', async t => {
  const url = await pg.migrated()
  const client = postgres(url, { max: 1 })
  t.teardown(() => client.end())
  for (const db of [await connect(url), await connect(drizzle(client))]) {
    const error = await db
      .query('SELECT $1::text::int AS secret_column', ['confidential'])
      .catch((error: Error) => error)
    t.match(error, { code: 'FST_QUOTA_STORE', cause: { code: '22P02' } })
    t.notMatch((error as Error).message, /secret_column/)
    await db.close()
  }
})

t.test('a damaged directory is told by its name, with what can be done, and is let go', async t => {
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

t.test('gives the rows of an answer, whatever became of the one before it on its connection', async t => {
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

t.test('takes what was never answered for a failure, not for no rows', async t => {
  // What postgres.js resolves a statement with whose connection was reset at the wrong moment.
  const unanswered = Object.assign([], { command: null })
  t.throws(() => rowsOf(unanswered), { code: 'FST_QUOTA_STORE' })
  t.strictSame(rowsOf(Object.assign([], { command: 'SELECT' })), [])
  t.strictSame(rowsOf({ rows: [1] }), [1])
})
