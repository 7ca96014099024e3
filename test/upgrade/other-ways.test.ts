// Tables that drizzle-kit, and not `init`, brings to this version: by a push, or by an application's own migrations.
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { drizzle } from 'drizzle-orm/postgres-js'
import { migrate as migrateTheirs } from 'drizzle-orm/postgres-js/migrator'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { connect, open } from '../../src/store/connection/connect.ts'
import { listMigrations } from '../../src/store/migration/list-migrations.ts'
import { MIGRATIONS_FOLDER, migrate } from '../../src/store/migration/migrate.ts'
import { catalogue } from '../fixtures/catalogue.ts'
import { server } from '../fixtures/database.ts'
import { push } from '../fixtures/drizzle-kit.ts'
import { ROOT, run, unpackBefore } from '../fixtures/tarball.ts'

const OWN = join(ROOT, 'examples/own-drizzle/migrations')

const pg = await server(t)
const migrations = (await readdir(MIGRATIONS_FOLDER)).filter(name => name.endsWith('.sql')).sort()

function sqlOf(t: Test, url: string): postgres.Sql {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  return sql
}

const init = async (home: string, url: string) =>
  await run(home, process.execPath, 'dist/cli/main.js', 'init', '--schema-only', '--database-url', url)

/** The first migrations of the example, as an application's deploy runs them. */
async function migrateOwn(t: Test, url: string, count: number): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'quota-own-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  await cp(OWN, dir, { recursive: true })
  const journal = JSON.parse(await readFile(join(dir, 'meta/_journal.json'), 'utf8'))
  await writeFile(
    join(dir, 'meta/_journal.json'),
    JSON.stringify({ ...journal, entries: journal.entries.slice(0, count) })
  )
  await migrateTheirs(drizzle(sqlOf(t, url)), { migrationsFolder: dir })
}

/** All migrations are recorded, and the tables are as the migrations make them. */
async function checkIsOfThisVersion(t: Test, url: string): Promise<void> {
  const db = await connect(url)
  t.teardown(() => db.close())
  t.match(await listMigrations(db), { recorded: migrations.length, unknown: 0 })
  const ours = (lines: string[]) => lines.filter(line => !line.includes('notes'))
  t.strictSame(ours(await catalogue(sqlOf(t, url))), await catalogue(sqlOf(t, await pg.migrated())))
}

async function migrateAt(url: string): Promise<number> {
  const db = await open(url)
  return await migrate(db).finally(() => db.close())
}

for (const migration of [migrations.at(1), migrations.at(-1)] as string[])
  t.test(`tables that init made before ${migration} and a push updated are recorded as up to date`, async t => {
    const url = await pg.empty()
    await init(await unpackBefore(t, migration), url)
    await push(url)
    await migrateAt(url)
    await checkIsOfThisVersion(t, url)
  })

for (const [i, migration] of migrations.entries()) {
  if (i === 0 || i > migrations.length - 2) continue
  t.test(`an application's own migrations can go on after init recorded those before ${migration}`, async t => {
    const url = await pg.empty()
    await migrateOwn(t, url, i)
    await init(await unpackBefore(t, migration), url)
    await migrateOwn(t, url, migrations.length)
    await migrateAt(url)
    await checkIsOfThisVersion(t, url)
  })
}

t.test('unrecorded tables of another version are refused with a way to update them, which then works', async t => {
  const url = await pg.empty()
  await migrateOwn(t, url, 3)
  const before = await catalogue(sqlOf(t, url), [])
  await t.rejects(migrateAt(url), {
    code: 'FST_QUOTA_SCHEMA',
    message:
      /table quota_rollups.* missing\. There are tables .* not match this version: update them with the drizzle-kit that made them.*init --schema-only/
  })
  t.strictSame(await catalogue(sqlOf(t, url), []), before)
  await migrateOwn(t, url, migrations.length)
  await migrateAt(url)
  await checkIsOfThisVersion(t, url)
})

t.test(
  'a migration of which only the columns exist, but not the index or constraint, is applied and not just recorded',
  async t => {
    const url = await pg.empty()
    await migrateOwn(t, url, 4)
    await sqlOf(t, url)`ALTER TABLE quota_limits ADD COLUMN last_held_amount bigint DEFAULT 0 NOT NULL`
    await migrateAt(url)
    await checkIsOfThisVersion(t, url)
  }
)
