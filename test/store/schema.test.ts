import { cpSync, readdirSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import ownDrizzle from '../../examples/own-drizzle/drizzle.config.ts'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { connect, open } from '../../src/store/connection/connect.ts'
import { MIGRATIONS_FOLDER, migrate } from '../../src/store/migration/migrate.ts'
import { deleteUser } from '../../src/store/operator/delete-user.ts'
import { forgetRollups } from '../../src/store/rollup/forget-rollups.ts'
import { catalogue } from '../fixtures/catalogue.ts'
import { costing, hold, standing } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { drizzleKit, push } from '../fixtures/drizzle-kit.ts'
import { ROOT } from '../fixtures/tarball.ts'

const pg = await server(t)

function sqlOf(t: Test, url: string): postgres.Sql {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  return sql
}

async function migrateAt(url: string): Promise<number> {
  const db = await open(url)
  return await migrate(db).finally(() => db.close())
}

t.test('drizzle-kit push on an empty database and the migrations give the same schema', async t => {
  const [pushed, migrated] = [await pg.empty(), await pg.migrated()]
  await push(pushed)
  const lines = await catalogue(sqlOf(t, migrated))
  t.strictSame(await catalogue(sqlOf(t, pushed)), lines)
  t.ok(lines.length > 80, 'the schema is not empty')

  t.equal(await migrateAt(pushed), 1, 'migrate() applies the replica identities, which the push left out')
  const [before] = await sqlOf(t, migrated)`SELECT array_agg(hash ORDER BY hash) AS hashes FROM quota_migrations`
  const [after] = await sqlOf(t, pushed)`SELECT array_agg(hash ORDER BY hash) AS hashes FROM quota_migrations`
  t.strictSame(after!.hashes, before!.hashes, 'all migrations are recorded')
  await (await connect(pushed)).close()
})

t.test('migrate() records what a push has applied, however many migrations are already recorded', async t => {
  const [pushed, migrated] = [await pg.empty(), sqlOf(t, await pg.migrated())]
  await push(pushed)
  const sql = sqlOf(t, pushed)
  await migrateAt(pushed)
  const hashes = readMigrationFiles({ migrationsFolder: MIGRATIONS_FOLDER }).map(({ hash }) => hash)
  for (const [count] of hashes.entries()) {
    await sql`DELETE FROM quota_migrations WHERE hash = ANY (${hashes.slice(count)})`
    await migrateAt(pushed)
    t.strictSame(new Set((await sql`SELECT hash FROM quota_migrations`).map(row => row.hash)), new Set(hashes))
    t.strictSame(await catalogue(sql), await catalogue(migrated), `with ${count} recorded`)
  }
})

t.test(
  'with a publication of all tables, users and rollups can still be deleted, on migrated tables and on pushed ones',
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

t.test('a push after the migrations changes and drops nothing', async t => {
  const url = await pg.migrated()
  const sql = sqlOf(t, url)
  const before = await catalogue(sql, [])
  t.match(await push(url), /No changes detected/)
  t.strictSame(await catalogue(sql, []), before)
  t.ok(before.some(line => line.startsWith('quota_migrations.')))
})

t.test('a second migrate() changes nothing', async t => {
  const url = await pg.empty()
  t.ok((await migrateAt(url)) > 0)
  const sql = sqlOf(t, url)
  const before = [await catalogue(sql, []), await sql`SELECT * FROM quota_migrations`]
  t.equal(await migrateAt(url), 0)
  t.strictSame([await catalogue(sql, []), await sql`SELECT * FROM quota_migrations`], before)
})

t.test("the tables are in the search_path's schema and refer to each other, even beside those in 'public'", async t => {
  for (const hasOthers of [false, true]) {
    const url = await pg.empty()
    const admin = sqlOf(t, url)
    if (hasOthers) await migrateAt(url)
    await admin`CREATE SCHEMA app`
    await admin.unsafe(`ALTER DATABASE ${new URL(url).pathname.slice(1)} SET search_path = app`)
    await migrateAt(url)
    const db = await connect(url)
    t.teardown(() => db.close())
    t.same(
      await db.query(`SELECT DISTINCT confrelid::regclass::text, connamespace::regnamespace::text AS schema
                        FROM pg_constraint WHERE contype = 'f' AND conrelid = 'app.quota_limits'::regclass ORDER BY 1`),
      [
        { confrelid: 'quota_types', schema: 'app' },
        { confrelid: 'quota_users', schema: 'app' }
      ]
    )
    t.same(
      await db.query(
        "SELECT 1 FROM pg_constraint WHERE connamespace = 'app'::regnamespace AND confrelid <> 0 AND confrelid::regclass::text LIKE '%.%'"
      ),
      []
    )
    await declareTypes(db, { calls: { limit: 10 } })
    await hold(db, 'alice', { calls: 3 })
    t.strictSame(await standing(db, 'alice', 'calls'), [0, 3, 7])
  }
})

t.test('a migration runs in the schema of the tables, even if another comes first in the search_path', async t => {
  const url = await pg.migrated()
  const admin = sqlOf(t, url)
  await admin`CREATE SCHEMA app`
  await admin.unsafe(`ALTER DATABASE ${new URL(url).pathname.slice(1)} SET search_path = app, public`)
  t.equal(await migrateAt(url), 0)
  const hashes = readMigrationFiles({ migrationsFolder: MIGRATIONS_FOLDER }).map(({ hash }) => hash)
  await admin`DROP TABLE quota_rollups, quota_usage_days, quota_usage_marks, quota_usage_totals`
  await admin`ALTER TABLE quota_periods DROP COLUMN pruned_at`
  await admin`ALTER TABLE quota_limits ADD CONSTRAINT quota_limits_reserved_amount_check CHECK (true)`
  await admin`ALTER TABLE quota_periods ADD CONSTRAINT quota_periods_reserved_amount_check CHECK (true)`
  await admin`DELETE FROM quota_migrations WHERE hash = ANY (${hashes.slice(3)})`
  await migrateAt(url)
  t.same(await admin`SELECT relname FROM pg_class WHERE relnamespace = 'app'::regnamespace`, [])
  await (await connect(url)).close()
})

t.test("push and migrate leave the application's own tables alone", async t => {
  for (const make of [push, migrateAt]) {
    const url = await pg.empty()
    const sql = sqlOf(t, url)
    await sql`CREATE VIEW adults AS SELECT 18 AS age`
    await sql`CREATE VIEW quota_adults AS SELECT 18 AS age`
    await sql`CREATE TABLE quota_plans (name text)`
    await sql`CREATE TABLE users (id serial PRIMARY KEY, email text UNIQUE, age int CHECK (age > 0))`
    await sql`CREATE TABLE orders (id serial PRIMARY KEY, user_id int REFERENCES users, usage_logs text DEFAULT 'x')`
    await sql`CREATE INDEX orders_user ON orders (user_id)`
    await sql`INSERT INTO users (email, age) VALUES ('a@example.com', 5)`
    await sql`INSERT INTO orders (user_id) VALUES (1)`
    const theirs = async () => [
      (await catalogue(sql, [])).filter(line =>
        /^(users|orders|quota_plans)[.:]|ON public\.(users|orders) /.test(line)
      ),
      await sql`SELECT u.*, o.* FROM users u JOIN orders o ON o.user_id = u.id`,
      await sql`SELECT * FROM adults, quota_adults`
    ]
    const before = await theirs()
    await make(url)
    await make(url)
    t.strictSame(await theirs(), before)
    t.ok((await catalogue(sql)).some(line => line.startsWith('quota_limits.')))
  }
})

t.test("push leaves the application's own sequences and enum types alone, whether used or not", async t => {
  const url = await pg.empty()
  const sql = sqlOf(t, url)
  await sql.unsafe(`
    CREATE SEQUENCE invoice_no START 1000;
    CREATE SEQUENCE "Count ""down""; 'x'" AS smallint INCREMENT -2 MINVALUE -9 MAXVALUE 7 START 5 CACHE 3 CYCLE;
    CREATE SEQUENCE backwards AS integer INCREMENT -1;
    CREATE TYPE mood AS ENUM ('it''s', 'so "so", {so}', '');
    ALTER TYPE mood ADD VALUE 'glad' BEFORE 'it''s';
    CREATE TYPE "Unused" AS ENUM ('a');
    CREATE TYPE without_values AS ENUM ();
    CREATE TABLE people (id serial PRIMARY KEY, big bigserial, small smallserial, mood mood DEFAULT 'it''s',
      no integer GENERATED ALWAYS AS IDENTITY (START 50 INCREMENT 10 CYCLE), invoice bigint DEFAULT nextval('invoice_no'));
    CREATE SCHEMA app;
    CREATE SEQUENCE app.invoice_no START 7;
    CREATE TYPE app.mood AS ENUM ('other');
    INSERT INTO people DEFAULT VALUES`)
  const theirs = async () => [
    (await catalogue(sql, [])).filter(line => /^people[.:]|ON public\.people /.test(line)),
    await sql`SELECT * FROM people`,
    await sql`SELECT * FROM pg_sequences WHERE sequencename <> 'quota_types_id_seq' ORDER BY schemaname, sequencename`,
    await sql`SELECT t.oid::regtype::text AS type, array_agg(e.enumlabel ORDER BY e.enumsortorder) AS values
                FROM pg_type t LEFT JOIN pg_enum e ON e.enumtypid = t.oid WHERE t.typtype = 'e' GROUP BY t.oid ORDER BY 1`
  ]
  const before = await theirs()
  t.match(await push(url), /Changes applied/)
  t.strictSame(await theirs(), before)
  t.strictSame(await catalogue(sql, ['people']), await catalogue(sqlOf(t, await pg.migrated())))
  t.match(await push(url), /No changes detected/)
  t.strictSame(await theirs(), before)
  t.equal(before[2]!.length, 8, 'all sequences are still there')
})

t.test('a push that cannot read what else is in the database fails, and does not show the password', async t => {
  const url = new URL(pg.url())
  url.password = 'not-the-password'
  const error: Error = await push(url.href).then(
    () => t.fail('it was pushed'),
    error => error
  )
  t.match(
    error.message,
    'Nothing is pushed: what else is in the database cannot be read: password authentication failed'
  )
  t.notMatch(error.message, /not-the-password/)
})

t.test('drizzle-kit generate finds nothing to add to the migrations, whatever else is in the database', async t => {
  const url = await pg.empty()
  await sqlOf(t, url)`CREATE SEQUENCE invoice_no`
  const dir = t.testdir()
  cpSync(join(ROOT, 'drizzle'), join(dir, 'drizzle'), { recursive: true })
  const files = readdirSync(join(dir, 'drizzle'))
  const config = join(dir, 'drizzle.config.ts')
  const [ours, out] = [join(ROOT, 'drizzle.config.ts'), relative(ROOT, join(dir, 'drizzle'))]
  writeFileSync(config, `import ours from '${ours}'\nexport default { ...ours, out: '${out}' }\n`)
  t.match(await drizzleKit(['generate', '--config', relative(ROOT, config)], url), /nothing to migrate/)
  t.strictSame(readdirSync(join(dir, 'drizzle')), files)
})

t.test("an application's schema that includes ours can be pushed, and reservations then work", async t => {
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

t.test("a push of an application's schema with the example's tablesFilter keeps the table of migrations", async t => {
  const url = await pg.migrated()
  const { tablesFilter } = ownDrizzle as { tablesFilter?: string[] }
  const config = { dialect: 'postgresql', schema: './schema.ts', tablesFilter, dbCredentials: { url } }
  const dir = t.testdir({ 'drizzle.config.json': JSON.stringify(config) })
  writeFileSync(join(dir, 'schema.ts'), `export * from '${relative(dir, join(ROOT, 'src/store/schema.ts'))}'\n`)
  const sql = sqlOf(t, url)
  const before = await catalogue(sql, [])
  t.match(await drizzleKit(['push', '--config', 'drizzle.config.json', '--force'], url, dir), /No changes detected/)
  t.strictSame(await catalogue(sql, []), before)
})

t.test('the four documented SQL statements work as they are written', async t => {
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
  'tables that grow with users have keys that begin with the user and refer only by user or to the types; no triggers or functions',
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
