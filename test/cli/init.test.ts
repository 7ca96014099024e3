import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import t from 'tap'
import { listTypes } from '../../src/store/catalogue/list-types.ts'
import { charge } from '../../src/store/charge/charge.ts'
import { open } from '../../src/store/connection/connect.ts'
import { MIGRATIONS_FOLDER } from '../../src/store/migration/migrate.ts'
import { viewQuotas } from '../../src/store/operator/view-quotas.ts'
import { built } from '../fixtures/built.ts'
import { auditOf } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'

t.test('fastify-quota init', async t => {
  const [build, pg] = await Promise.all([built(t), server(t)])
  const init = (url: string, ...args: string[]) => build.run('cli/main.js', ['init', ...args], { DATABASE_URL: url })
  const file = async (name: string, content: string) => {
    await writeFile(join(build.dir, name), content)
    return name
  }
  const look = async (url: string) => {
    const db = await open(url)
    t.teardown(() => db.close())
    return db
  }

  t.test('creates tables and types in an empty database, and changes nothing the second time', async t => {
    const url = await pg.empty()
    const first = await init(url)
    t.match(first, { code: 0, stdout: /[0-9]+ migrations applied.*\n- 5 quota types inserted: api_calls_continue, / })
    t.match(first.stdout, /^On postgres:\/\/postgres@127\.0\.0\.1:\d+\/test_\d+:/)
    t.notMatch(first.stdout, /postgres:postgres/, 'the password is not printed')
    const types = await listTypes(await look(url))
    t.match(await init(url), { code: 0, stdout: /tables are those of this version\n- 5 quota types already there/ })
    t.strictSame(await listTypes(await look(url)), types)
  })

  t.test('declares the types in a file, and updates them when the file changes', async t => {
    const url = await pg.empty()
    const types = (limit: number) =>
      file('types.json', JSON.stringify({ tokens: { limit, unit: 'token', period: 'day' } }))
    t.match(await init(url, '--types', await types(5)), { code: 0, stdout: /1 quota type inserted: tokens/ })
    t.match(await init(url, '--types', await types(9)), { code: 0, stdout: /already there/ })
    t.match(await listTypes(await look(url)), [{ key: 'tokens', defaultLimit: 9, period: 'day' }])
  })

  t.test('accepts a file of types that begins with a byte order mark', async t => {
    const types = await file('marked.json', '\ufeff{ "tokens": { "limit": 3 } }')
    const done = await init(await pg.empty(), '--types', types)
    t.match(done, { code: 0, stdout: /1 quota type inserted: tokens/ })
  })

  t.test('creates no types with --schema-only', async t => {
    const url = await pg.empty()
    t.equal((await init(url, '--schema-only')).code, 0)
    t.strictSame(await listTypes(await look(url)), [])
  })

  t.test('gives the users in a file their limits and calendars, and repeats nothing', async t => {
    const url = await pg.empty()
    const csv = await file(
      'users.csv',
      'user_id,email,time_zone,period_anchor\nalice,a@example.com,Asia/Tokyo,2026-01-31\nbob,,,\n'
    )
    t.match(await init(url, '--users-from', csv), {
      code: 0,
      stdout: /2 users of the file: 2 new, 0 changed; limits given to 2 users/
    })
    const db = await look(url)
    const { quotas } = await viewQuotas(db, 'alice', 'api_calls_l3_detect')
    // Midnight in Tokyo.
    t.match(quotas, [{ limit: 200, used: 0, resetsAt: { toISOString: Function } }])
    t.match(quotas[0]!.resetsAt!.toISOString(), /T15:00:00\.000Z$/)
    const dayAfter = new Date(quotas[0]!.resetsAt!.getTime() + 33 * 3_600_000)
    t.equal(dayAfter.getUTCDate(), 1, 'counted from a 31st, a month ends on the last day of another')
    const [type] = (await listTypes(db)).filter(({ key }) => key === 'api_calls_l3_detect')
    const id = '01970000-0000-7000-8000-000000000000'
    const charges = [{ id, typeId: type!.id, type: type!.key, amount: 7 }]
    await charge(db, { userId: 'alice', charges, endpoint: null, metadata: {}, idempotencyKey: null })
    t.match(await init(url, '--users-from', csv), { stdout: /0 new, 0 changed; limits given to 0 users/ })
    const moved = await file('moved.csv', 'id,time_zone,timezone,Name\nbob,Europe/Berlin,,Bob\n')
    t.match(await init(url, '--users-from', moved), {
      stdout:
        /1 user of the file: 0 new, 1 changed; limits given to 0 users\n- columns of the file that were ignored: timezone, Name\n/
    })
    t.match((await viewQuotas(db, 'alice', 'api_calls_l3_detect')).quotas, [{ used: 7 }])
    t.strictSame(await auditOf(db, 'alice'), [])
    t.strictSame(await auditOf(db, 'bob'), [
      {
        actor: 'fastify-quota init',
        action: 'update_user',
        quota_type: null,
        before: { email: null, time_zone: 'UTC', period_anchor: null },
        after: { email: null, time_zone: 'Europe/Berlin', period_anchor: null },
        reason: null,
        request_id: null
      }
    ])
  })

  t.test('--all-users gives every existing user the limits of types that were added later', async t => {
    const url = await pg.empty()
    const csv = await file('many.csv', Array.from({ length: 600 }, (_, i) => `user-${i}`).join('\n'))
    t.match(await init(url, '--users-from', csv), {
      code: 0,
      stdout: /600 new, 0 changed; limits given to 600 users/
    })
    const types = await file('newer.json', '{ "tokens": { "limit": 3 } }')
    t.match(await init(url, '--types', types, '--all-users'), {
      code: 0,
      stdout: /limits given to 600 users of quota_users/
    })
    t.match(await init(url, '--all-users'), { code: 0, stdout: /limits given to 0 users of quota_users/ })
    const db = await look(url)
    const [counters] = await db.query<{ n: number }>('SELECT count(*)::int AS n FROM quota_limits')
    t.equal(counters!.n, 600 * 6)
  })

  t.test('--all-users names the user to whom it cannot give limits', async t => {
    const url = await pg.migrated()
    const db = await look(url)
    await db.query("INSERT INTO quota_users (id, time_zone) VALUES ('bob', 'Mars/Olympus')")
    t.match(await init(url, '--all-users'), { code: 1, stderr: /init: user 'bob': .*Mars\/Olympus/ })
  })

  t.test('refuses an invalid file before anything is written', async t => {
    const url = await pg.empty()
    const csv = await file('wrong.csv', 'id,time_zone\nalice,\nbob,Mars/Olympus\n')
    t.match(await init(url, '--users-from', csv), {
      code: 1,
      stderr: /wrong\.csv was refused.*\n {2}line 3: 'Mars\/Olympus' is not an IANA/
    })
    const types = await file('wrong.json', '{ "tokens": { "limit": -5 } }')
    t.match(await init(url, '--types', types), { code: 1, stderr: /wrong\.json: tokens\.limit must be a whole number/ })
    const db = await look(url)
    t.match(await db.query("SELECT to_regclass('quota_types') AS made"), [{ made: null }])
  })

  t.test('gives users their limits even if the role may only read and write rows', async t => {
    const url = await pg.migrated()
    const db = await look(url)
    await db.query("CREATE ROLE clerk LOGIN PASSWORD 'clerk'")
    await db.query('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk')
    await db.query("INSERT INTO quota_users (id) VALUES ('alice')")
    const done = await init(url.replace('postgres:postgres@', 'clerk:clerk@'), '--all-users')
    t.match(done, {
      code: 0,
      stdout: /tables are those of this version\n- 5 quota types inserted.*\n- limits given to 1 user /
    })
  })

  t.test('records the migrations as applied if drizzle-kit push created the tables', async t => {
    const url = await pg.migrated()
    const db = await look(url)
    await db.query('DROP TABLE quota_migrations')
    t.equal((await init(url)).code, 0)
    const shipped = readMigrationFiles({ migrationsFolder: MIGRATIONS_FOLDER })
    t.match(await db.query('SELECT count(*)::int AS n FROM quota_migrations'), [{ n: shipped.length }])
  })

  t.test('fails if a column or index was dropped, which no migration restores, and names it', async t => {
    const url = await pg.migrated()
    const db = await look(url)
    await db.query('ALTER TABLE quota_limits DROP COLUMN updated_at')
    await db.query('DROP INDEX quota_usage_days_key')
    const { code, stdout, stderr } = await init(url)
    t.equal(code, 1)
    t.notMatch(stdout, 'of this version')
    t.match(
      stderr,
      /: column quota_limits\.updated_at, unique index quota_usage_days \(user_id, .*\) missing\. To fix it, restore it from a backup/
    )
    t.same(await db.query('SELECT type_key FROM quota_types'), [], 'and goes no further')
  })

  t.test('creates an embedded database if no URL is given', async t => {
    const made = await build.run('cli/main.js', ['init'], { QUOTA_DATA_DIR: 'embedded' })
    t.match(made, { code: 0, stdout: /^On the embedded database in embedded:\n.*\n- 5 quota types inserted/ })
  })
})
