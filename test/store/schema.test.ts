import { execFile } from 'node:child_process'
import { cpSync, readdirSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { commit } from '../../src/store/commit.ts'
import { connect, open } from '../../src/store/connect.ts'
import { declareTypes } from '../../src/store/declare-types.ts'
import { deleteUser } from '../../src/store/delete-user.ts'
import { migrate } from '../../src/store/migrate.ts'
import { forgetRollups } from '../../src/store/rollup/forget-usage.ts'
import { costing, hold, standing } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const pg = await server(t)

/** `npx drizzle-kit …`, nobody at the keyboard; what it printed. */
const drizzleKit = (args: string[], url: string, cwd = ROOT): Promise<string> =>
  new Promise((resolve, reject) => {
    const env = { ...process.env, DATABASE_URL: url, NODE_OPTIONS: '' }
    const run = execFile(
      process.execPath,
      [join(ROOT, 'node_modules/drizzle-kit/bin.cjs'), ...args],
      { cwd, env },
      (error, stdout, stderr) => (error ? reject(new Error(`${stdout}\n${stderr}`)) : resolve(`${stdout}${stderr}`))
    )
    run.stdin?.end()
  })

const push = (url: string, cwd?: string) => drizzleKit(['push'], url, cwd)

function sqlOf(t: Test, url: string): postgres.Sql {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  return sql
}

async function migrateAt(url: string): Promise<number> {
  const db = await open(url)
  return await migrate(db).finally(() => db.close())
}

const CATALOGUE = `
WITH tables AS (
  SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> ALL ($1)
)
SELECT format('%s.%s %s, not null: %s, default: %s, identity: %s', t.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
              coalesce(pg_get_expr(d.adbin, d.adrelid), 'none'), a.attidentity) AS line
  FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
UNION ALL
SELECT format('%s: %s %s', t.relname, c.conname, pg_get_constraintdef(c.oid)) FROM tables t JOIN pg_constraint c ON c.conrelid = t.oid
UNION ALL
SELECT pg_get_indexdef(i.indexrelid) FROM tables t JOIN pg_index i ON i.indrelid = t.oid
 ORDER BY 1`

const catalogue = async (sql: postgres.Sql, leftOut = ['quota_migrations']): Promise<string[]> =>
  (await sql.unsafe(CATALOGUE, [leftOut])).map(row => row.line as string)

t.test('drizzle-kit push on an empty database and the migrations give the same schema', async t => {
  const [pushed, migrated] = [await pg.empty(), await pg.migrated()]
  await push(pushed)
  const lines = await catalogue(sqlOf(t, migrated))
  t.strictSame(await catalogue(sqlOf(t, pushed)), lines)
  t.ok(lines.length > 80, 'and it is not empty')

  t.equal(await migrateAt(pushed), 0, 'a migrate() after it applies nothing')
  const [before] = await sqlOf(t, migrated)`SELECT array_agg(hash ORDER BY hash) AS hashes FROM quota_migrations`
  const [after] = await sqlOf(t, pushed)`SELECT array_agg(hash ORDER BY hash) AS hashes FROM quota_migrations`
  t.strictSame(after!.hashes, before!.hashes, 'and writes down what is there')
  await (await connect(pushed)).close()
})

t.test(
  'a publication of all tables lets users be deleted, and sums forgotten, on migrated tables and on pushed ones',
  async t => {
    const pushed = await pg.empty()
    await push(pushed)
    await migrateAt(pushed)
    for (const url of [await pg.migrated(), pushed]) {
      await sqlOf(t, url)`CREATE PUBLICATION everything FOR ALL TABLES`
      const db = await connect(url)
      t.teardown(() => db.close())
      await db.query("INSERT INTO quota_users (id) VALUES ('alice')")
      await db.query(
        "INSERT INTO quota_usage_days SELECT 'alice', 1, 'UTC', now(), 1, 1 UNION ALL SELECT 'bob', 1, 'UTC', now(), 1, 1"
      )
      await db.query("INSERT INTO quota_usage_marks VALUES ('alice', now(), 1)")
      t.ok(await deleteUser(db, 'alice', { actor: 'test', reason: null, requestId: null }))
      await forgetRollups(db)
      t.equal((await db.query('SELECT user_id FROM quota_usage_days')).length, 0)
    }
  }
)

t.test('a push after the migrations changes nothing, and drops nothing', async t => {
  const url = await pg.migrated()
  const sql = sqlOf(t, url)
  const before = await catalogue(sql, [])
  t.match(await push(url), /No changes detected/)
  t.strictSame(await catalogue(sql, []), before)
  t.ok(before.some(line => line.startsWith('quota_migrations.')))
})

t.test('migrate() twice is migrate() once', async t => {
  const url = await pg.empty()
  t.ok((await migrateAt(url)) > 0)
  const sql = sqlOf(t, url)
  const before = [await catalogue(sql, []), await sql`SELECT * FROM quota_migrations`]
  t.equal(await migrateAt(url), 0)
  t.strictSame([await catalogue(sql, []), await sql`SELECT * FROM quota_migrations`], before)
})

t.test("push and migrate leave the application's own tables alone", async t => {
  for (const make of [push, migrateAt]) {
    const url = await pg.empty()
    const sql = sqlOf(t, url)
    await sql`CREATE VIEW adults AS SELECT 18 AS age`
    await sql`CREATE TABLE users (id serial PRIMARY KEY, email text UNIQUE, age int CHECK (age > 0))`
    await sql`CREATE TABLE orders (id serial PRIMARY KEY, user_id int REFERENCES users, usage_logs text DEFAULT 'x')`
    await sql`CREATE INDEX orders_user ON orders (user_id)`
    await sql`INSERT INTO users (email, age) VALUES ('a@example.com', 5)`
    await sql`INSERT INTO orders (user_id) VALUES (1)`
    const theirs = async () => [
      (await catalogue(sql, [])).filter(line => /^(users|orders)[.:]|ON public\.(users|orders) /.test(line)),
      await sql`SELECT u.*, o.* FROM users u JOIN orders o ON o.user_id = u.id`,
      await sql`SELECT * FROM adults`
    ]
    const before = await theirs()
    await make(url)
    await make(url)
    t.strictSame(await theirs(), before)
    t.ok((await catalogue(sql)).some(line => line.startsWith('quota_limits.')))
  }
})

t.test(
  "push makes all of ours beside an application's serial and identity columns, whose sequences it cannot take",
  async t => {
    const url = await pg.empty()
    const sql = sqlOf(t, url)
    await sql`CREATE TABLE users (id serial PRIMARY KEY, name text)`
    await sql`CREATE TABLE orders (id integer GENERATED ALWAYS AS IDENTITY, user_id integer REFERENCES users)`
    await sql`INSERT INTO users (name) VALUES ('Ann')`
    await push(url)
    const db = await connect(url)
    t.teardown(() => db.close())
    await sql`INSERT INTO users (name) VALUES ('Bob')`
    t.same(await sql`SELECT id, name FROM users ORDER BY id`, [
      { id: 1, name: 'Ann' },
      { id: 2, name: 'Bob' }
    ])
  }
)

t.test('drizzle-kit generate finds nothing that the migrations lack', async t => {
  const dir = t.testdir()
  cpSync(join(ROOT, 'drizzle'), join(dir, 'drizzle'), { recursive: true })
  const files = readdirSync(join(dir, 'drizzle'))
  const out = relative(ROOT, join(dir, 'drizzle'))
  const printed = await drizzleKit(
    ['generate', '--dialect', 'postgresql', '--schema', './src/store/schema.ts', '--out', out],
    ''
  )
  t.match(printed, /nothing to migrate/)
  t.strictSame(readdirSync(join(dir, 'drizzle')), files)
})

t.test("an application's schema that has ours in it can be pushed, and then serves", async t => {
  const url = await pg.empty()
  const dir = t.testdir({
    'drizzle.config.js':
      "export default { dialect: 'postgresql', schema: './schema.ts', dbCredentials: { url: process.env.DATABASE_URL } }\n"
  })
  const ours = relative(dir, join(ROOT, 'src/store/schema.ts'))
  writeFileSync(
    join(dir, 'schema.ts'),
    `import { pgTable, serial, text } from 'drizzle-orm/pg-core'
export * from '${ours}'
export const users = pgTable('users', { id: serial('id').primaryKey(), quotaUserId: text('quota_user_id') })
`
  )
  await push(url, dir)
  t.strictSame(await catalogue(sqlOf(t, url), ['users']), await catalogue(sqlOf(t, await pg.migrated())))
  const db = await connect(url)
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 3 })
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 3, 7])
})

t.test('the four documented statements answer as they stand', async t => {
  const url = await pg.migrated()
  const db = await connect(url)
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 3 })), '/a')
  await hold(db, 'alice', { calls: 2 })
  const sql = sqlOf(t, url)
  t.match(await sql`SELECT COUNT(*) FROM quota_types`, [{ count: '1' }])
  t.match(
    await sql`SELECT qt.type_key, ql.limit_amount, ql.used_amount FROM quota_limits ql JOIN quota_types qt ON ql.quota_type_id = qt.id WHERE ql.user_id = 'alice'`,
    [{ type_key: 'calls', limit_amount: '10', used_amount: '5' }]
  )
  const [row] = await sql`SELECT * FROM usage_logs ORDER BY created_at DESC LIMIT 10`
  t.strictSame(
    ['id', 'user_id', 'quota_type_id', 'amount', 'endpoint', 'metadata', 'created_at'].filter(name => !(name in row!)),
    []
  )
  t.match(
    await sql`SELECT user_id, SUM(amount) FROM usage_logs WHERE created_at >= NOW() - INTERVAL '30 days' GROUP BY user_id ORDER BY 2 DESC LIMIT 10`,
    [{ user_id: 'alice', sum: '3' }]
  )
})

t.test(
  'every table that grows with users leads its key with the user, and refers only along it or to the types',
  async t => {
    const sql = sqlOf(t, await pg.migrated())
    const keys = await sql`
    SELECT i.indrelid::regclass::text AS table, a.attname AS first FROM pg_index i
      JOIN pg_class c ON c.oid = i.indrelid AND c.relnamespace = 'public'::regnamespace
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indisunique AND a.attname <> 'user_id' ORDER BY 1, 2`
    t.strictSame(
      keys.map(key => `${key.table}.${key.first}`),
      [
        'quota_migrations.hash',
        'quota_rollups.time_zone',
        'quota_types.id',
        'quota_types.type_key',
        'quota_usage_totals.time_zone',
        'quota_users.id'
      ]
    )
    const references = await sql`
    SELECT c.conname AS name FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
     WHERE c.contype = 'f' AND a.attname <> 'user_id' AND c.confrelid <> 'quota_types'::regclass`
    t.strictSame([...references], [])
    const [code] = await sql`
    SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)::int AS functions,
           (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)::int AS triggers`
    t.strictSame({ ...code }, { functions: 0, triggers: 0 })
  }
)
