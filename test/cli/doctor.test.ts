import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { checkDatabase } from '../../src/cli/check-database.ts'
import { describeFinding } from '../../src/cli/finding.ts'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { ensureUser } from '../../src/store/charge/ensure-user.ts'
import { open } from '../../src/store/connection/connect.ts'
import { lockDirectory } from '../../src/store/connection/lock-directory.ts'
import type { Database } from '../../src/store/database.ts'
import { built } from '../fixtures/built.ts'
import { hold } from '../fixtures/charges.ts'
import { embeddedDir, server } from '../fixtures/database.ts'

/** An application with a database of its own: doctor looks only at its routes. */
const PLUGIN = `
  await app.register(quota, {
    connection: process.env.APP_DATABASE_URL,
    identify: () => 'alice',
    quotas: { calls: { limit: 10 }, tokens: { limit: 100 } },
    rules: [{ method: 'POST', url: '/ruled', quota: 'calls', amount: 2 }]
  })
  app.post('/ruled', async () => 'x')
  app.post('/configured', { config: { quota: [{ type: 'calls' }, { type: 'tokens', amount: () => 5 }] } }, async () => 'x')
  app.post('/exempt', { config: { quota: false } }, async () => 'x')
  app.post('/forgotten', async () => 'x')
  app.get('/read', async () => 'x')`

const IMPORTS = "import Fastify from 'fastify'\nimport quota from '../dist/index.js'\n"

t.test('fastify-quota doctor', async t => {
  const [build, pg] = await Promise.all([built(t), server(t)])
  const APP_DATABASE_URL = await pg.migrated()
  const doctor = (url: string, ...args: string[]) =>
    build.run('cli/main.js', ['doctor', ...args], { DATABASE_URL: url, APP_DATABASE_URL })
  const app = async (name: string, code: string) => {
    await writeFile(join(build.dir, name), IMPORTS + code)
    return name
  }
  const plugin = await app('plugin.js', `export default async function (app, options) {${PLUGIN}\n}`)
  const findingsOf = async (db: Database) => (await checkDatabase(db)).map(describeFinding).join('\n')
  const healthy = async () => {
    const url = await pg.migrated()
    const db = await open(url)
    t.teardown(() => db.close())
    await declareTypes(db, { calls: { limit: 10 } })
    await ensureUser(db, 'alice')
    return { url, db }
  }

  t.test('finds nothing wrong with a healthy database, and prints what each route costs', async t => {
    const { url } = await healthy()
    const { code, stdout, stderr } = await doctor(url, '--app', plugin)
    t.equal(code, 0)
    t.equal(stderr, '')
    for (const about of [
      'connection',
      'version',
      'encoding',
      'isolation',
      'schema',
      'rights',
      'migrations',
      'types',
      'time zones',
      'reservations',
      'counters',
      'routes'
    ])
      t.match(stdout, new RegExp(`^ok +${about} `, 'm'), about)
    t.match(stdout, /^POST +\/ruled +calls × 2 +rules\[0\]$/m)
    t.match(stdout, /^POST +\/configured +calls × 1, tokens × amount\(\) +config\.quota$/m)
    t.match(stdout, /^POST +\/exempt +exempt$/m)
    t.match(stdout, /^GET +\/read +–$/m)
    t.match(stdout, /Nothing is wrong\.\n$/)
    t.notMatch(stdout, /postgres:postgres/, 'the password is not printed')
  })

  t.test('hints at a POST route that is not metered, unless it is exempt', async t => {
    const { url } = await healthy()
    const { stdout } = await doctor(url, '--app', plugin)
    const hints = stdout.split('\n').filter(line => line.startsWith('hint'))
    t.match(hints, [/POST \/forgotten is not metered/])
    t.equal(hints.length, 1)
  })

  t.test('--app accepts a Fastify instance, and a function that returns one', async t => {
    const { url } = await healthy()
    const files = [
      await app('instance.js', `const app = Fastify()\n${PLUGIN}\nexport default app`),
      await app('builder.js', `export default async () => {\nconst app = Fastify()\n${PLUGIN}\nreturn app\n}`)
    ]
    for (const file of files) t.match(await doctor(url, '--app', file), { code: 0, stdout: /2 of 6 are metered/ }, file)
  })

  t.test(
    'without --app shows the routes of the standalone server, and hints how to check your own application',
    async t => {
      const { url, db } = await healthy()
      const { code, stdout } = await doctor(url)
      t.equal(code, 0)
      t.match(stdout, /^POST +\/l3_detect\/:patient\/:date +api_calls_l3_detect × 1 +rules\[1\]$/m)
      t.equal(stdout.match(/^\S+ +\/docs\/? /gm)?.length, 1, 'each route once')
      t.match(stdout.match(/^hint .*\n.*/gm), [
        /^hint +routes +those of your own application .*\n +→ name its file: --app FILE$/
      ])
      t.same(await db.query('SELECT type_key FROM quota_types'), [{ type_key: 'calls' }], 'and writes nothing')
    }
  )

  t.test('says why it cannot check an application that fails to load or start, or lacks the plugin', async t => {
    const { url } = await healthy()
    const broken = await app(
      'broken.js',
      "export default async function (app, options) { throw new Error('no such luck') }"
    )
    t.match(await doctor(url, '--app', broken), { code: 1, stdout: /^wrong +routes +no such luck\n +→ /m })
    const bare = await app('bare.js', 'export default Fastify()')
    t.match(await doctor(url, '--app', bare), {
      code: 1,
      stdout: /^wrong +routes +the application has no app\.quota.*\n +→ register it/m
    })
    t.match(await doctor(url, '--app', 'nowhere.js'), {
      code: 1,
      stdout: /^wrong +routes +nowhere\.js cannot be loaded/m
    })
    const number = await app('number.js', 'export default 7')
    t.match(await doctor(url, '--app', number), { code: 1, stdout: /must export a Fastify instance/ })
    const thrown = await app('thrown.js', "throw 'no such luck'")
    t.match(await doctor(url, '--app', thrown), {
      code: 1,
      stdout: /^wrong +routes +thrown\.js cannot be loaded: 'no such luck' was thrown, which is no Error\n +→ /m
    })
    const nothing = await app('nothing.js', 'export default async () => { throw null }')
    t.match(await doctor(url, '--app', nothing), {
      code: 1,
      stdout: /^wrong +routes +null was thrown, which is no Error\n +→ /m
    })
  })

  t.test('reports each problem in the database, with its remedy', async t => {
    const { url, db } = await healthy()
    await db.query("INSERT INTO quota_users (id, time_zone) VALUES ('bob', 'Mars/Olympus')")
    await db.query("UPDATE quota_limits SET used_amount = 4 WHERE user_id = 'alice'")
    await db.query(
      "INSERT INTO quota_types (type_key, name, default_limit, is_active) VALUES ('retired', 'Retired', 1, false)"
    )
    await db.query('DELETE FROM quota_migrations')
    await db.query(
      `INSERT INTO quota_reservations (user_id, id, quota_type_id, amount, period_start, created_at, expires_at)
       SELECT user_id, gen_random_uuid(), quota_type_id, 3, period_start, now() - interval '2 hours', now() - interval '1 hour' FROM quota_limits`
    )
    const { code, stdout } = await doctor(url, '--app', plugin)
    t.equal(code, 1)
    t.match(stdout, /^wrong +time zones +'Mars\/Olympus' is not a time zone: user 'bob'\n +→ write an IANA name/m)
    t.match(stdout, /^wrong +counters +1 is not the sum.*\n +→ .*fastify-quota reconcile/m)
    t.match(stdout, /^hint +types +switched off, and not charged: retired/m)
    t.match(stdout, /^hint +migrations +none is recorded/m)
    t.match(stdout, /^hint +reservations +some expired for 1 user: a process died$/m)
    t.match(stdout, /2 things are wrong\.\n$/)
  })

  t.test('reports migrations that are not recorded, and hints at those of a newer version', async t => {
    const { db } = await healthy()
    await db.query("INSERT INTO quota_migrations (hash) VALUES ('newer')")
    t.match(
      await findingsOf(db),
      /^hint +migrations +1 recorded that this version does not know\n +→ a newer version has run here/m
    )
    const hash = "(SELECT min(hash) FROM quota_migrations WHERE hash <> 'newer')"
    await db.query(`DELETE FROM quota_migrations WHERE hash = ${hash}`)
    t.match(
      await findingsOf(db),
      /^wrong +migrations +(\d+) of (?!\1 )\d+ are applied\n +→ run `npx fastify-quota init/m
    )
  })

  t.test('counts users and what is missing, and names some', async t => {
    const { db } = await healthy()
    await db.query("INSERT INTO quota_users (id, time_zone) VALUES ('carol', 'Mars/Base'), ('bob', 'Mars/Base')")
    for (const user of ['dave', 'erin']) await hold(db, user, { calls: 1 }, { leaseMs: 1 })
    const found = await findingsOf(db)
    t.match(found, /^wrong +time zones +'Mars\/Base' is not a time zone: 2 users, one of them 'bob'\n/m)
    t.match(found, /^hint +reservations +some expired for 2 users: a process died\n/m)
    await db.query('DROP TABLE quota_rollups, quota_usage_days, quota_usage_totals, quota_usage_marks, quota_denials')
    await db.query('ALTER TABLE quota_limits DROP COLUMN updated_at, DROP COLUMN created_at')
    t.match(
      await findingsOf(db),
      /^wrong +schema +missing: (table|column) [^,]+(, (table|column) [^,]+){4} and 2 more\n/m
    )
  })

  t.test('reports an encoding that cannot hold every text', async t => {
    const { db } = await healthy()
    for (const encoding of ['LATIN1', 'SQL_ASCII']) {
      await db.query(`CREATE DATABASE ${encoding} ENCODING '${encoding}' LOCALE 'C' TEMPLATE template0`)
      const { code, stdout } = await doctor(pg.url(encoding.toLowerCase()), '--app', plugin)
      t.equal(code, 1)
      t.match(stdout, new RegExp(`^wrong +encoding +${encoding}: .*\\n +→ move the quotas .* ENCODING 'UTF8'`, 'm'))
    }
  })

  t.test('reports an isolation level under which concurrent requests would fail', async t => {
    const { url } = await healthy()
    const { code, stdout } = await doctor(`${url}?default_transaction_isolation=serializable`, '--app', plugin)
    t.equal(code, 1)
    t.match(
      stdout,
      /^wrong +isolation +SERIALIZABLE: .* 503.*\n +→ set default_transaction_isolation to 'read committed'/m
    )
  })

  t.test('reports a read-only server', async t => {
    const { url } = await healthy()
    const { code, stdout } = await doctor(`${url}?default_transaction_read_only=on`, '--app', plugin)
    t.equal(code, 1)
    t.match(stdout, /^wrong +connection +answered in \d+ ms, but is read-only: .*\n +→ give the URL of the primary/m)
  })

  t.test('reports missing rights of the role, but not as a connection problem', async t => {
    const { url, db } = await healthy()
    await db.query("CREATE ROLE clerk LOGIN PASSWORD 'clerk'")
    await db.query('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk')
    await db.query('REVOKE ALL ON quota_migrations FROM clerk')
    const clerk = url.replace('postgres:postgres@', 'clerk:clerk@')
    t.match(await doctor(clerk, '--app', plugin), {
      code: 0,
      stdout: /^ok +rights [\s\S]*^hint +migrations +this role may not read quota_migrations\n +→ /m
    })
    await db.query('REVOKE DELETE ON usage_logs FROM clerk')
    const { code, stdout } = await doctor(clerk, '--app', plugin)
    t.equal(code, 1)
    t.match(stdout, /^wrong +rights +the role clerk may not DELETE from usage_logs\n +→ give it the rights/m)
    t.notMatch(stdout, /^wrong +connection/m)
  })

  t.test('reports a table that a push left without replica identity, which init restores', async t => {
    const { url, db } = await healthy()
    await db.query('DELETE FROM quota_migrations')
    await db.query('ALTER TABLE quota_rollups REPLICA IDENTITY DEFAULT')
    t.match(await doctor(url, '--app', plugin), {
      code: 0,
      stdout:
        /^hint +replication +.*DELETE would be refused on quota_rollups.*\n +→ run `npx fastify-quota init --schema-only`/m
    })
    await db.query('CREATE PUBLICATION everything FOR ALL TABLES')
    t.match(await doctor(url, '--app', plugin), {
      code: 1,
      stdout:
        /^wrong +replication +DELETE is refused .*: quota_rollups\n +→ run `npx fastify-quota init --schema-only`/m
    })
    await build.run('cli/main.js', ['init', '--schema-only'], { DATABASE_URL: url })
    const { code, stdout } = await doctor(url, '--app', plugin)
    t.equal(code, 0)
    t.notMatch(stdout, 'replication')
  })

  t.test('reports a missing primary key, without which no charge is written, and how to restore it', async t => {
    const { url, db } = await healthy()
    await db.query('ALTER TABLE usage_logs DROP CONSTRAINT usage_logs_pkey')
    const { code, stdout } = await doctor(url, '--app', plugin)
    t.equal(code, 1)
    t.match(
      stdout,
      /^wrong +schema +missing: primary key usage_logs \(user_id, id\)\n +→ restore it from a backup .* recorded as applied/m
    )
    await db.query('DELETE FROM quota_migrations')
    t.match(await findingsOf(db), /^wrong +schema .*\n +→ run `npx fastify-quota init --schema-only`/m)
  })

  t.test('hints at missing constraints and indexes, and reports one without which deletes are incomplete', async t => {
    const { db } = await healthy()
    await db.query('ALTER TABLE quota_limits DROP CONSTRAINT quota_limits_quota_type_id_quota_types_id_fk')
    await db.query('ALTER TABLE quota_limits DROP CONSTRAINT quota_limits_used_amount_check')
    await db.query('DROP INDEX usage_logs_created_at_idx')
    await db.query('ALTER TABLE quota_audit_logs DROP CONSTRAINT quota_audit_logs_pkey')
    const lesser = await findingsOf(db)
    t.notMatch(lesser, /^wrong/m)
    t.match(
      lesser,
      /^hint +schema +nothing refuses wrong rows: quota_limits_used_amount_check, quota_limits_quota_type_id_quota_types_id_fk missing\n +→ create it by hand/m
    )
    t.match(lesser, /^hint +schema +lists are slow: quota_audit_logs_pkey, usage_logs_created_at_idx missing\n +→ /m)
    await db.query(
      `ALTER TABLE quota_periods DROP CONSTRAINT quota_periods_counter_fk,
         ADD FOREIGN KEY (user_id, quota_type_id) REFERENCES quota_limits (user_id, quota_type_id)`
    )
    t.match(
      await findingsOf(db),
      /^wrong +schema +users who are deleted leave rows behind: quota_periods_counter_fk missing/m
    )
  })

  t.test('reports a database that has no tables or types, cannot be reached, or does not exist', async t => {
    t.match(await doctor(await pg.empty(), '--app', plugin), {
      code: 1,
      stdout: /^wrong +schema +missing: table .*\n +→ run `npx fastify-quota init --schema-only`/m
    })
    t.match(await doctor(await pg.migrated(), '--app', plugin), {
      code: 1,
      stdout: /^wrong +types +there is no quota type\n +→ declare them/m
    })
    const secret = 'postgres://postgres:hunter2secret@127.0.0.1:1/none'
    const unreachable = await doctor(secret, '--app', plugin)
    t.match(unreachable, { code: 1, stdout: /^wrong +connection .*\n +→ check DATABASE_URL/m })
    t.notMatch(unreachable.stdout + unreachable.stderr, /hunter2secret/)
    const none = await build.run('cli/main.js', ['doctor', '--data-dir', 'none', '--app', plugin], { APP_DATABASE_URL })
    t.match(none, {
      code: 1,
      stdout:
        /^wrong +connection +There is no embedded database in none.*\n +→ create it with `npx fastify-quota init`$/m
    })
  })

  t.test('distinguishes a damaged directory from one that is open in another process', async t => {
    const dataDir = await embeddedDir(t)
    const look = () =>
      build.run('cli/main.js', ['doctor', '--data-dir', dataDir, '--app', plugin], { APP_DATABASE_URL })
    const unlock = await lockDirectory(dataDir)
    t.match(await look(), {
      code: 1,
      stdout: /^wrong +connection +.* is open in process \d+.*\n +→ one process at a time: stop the application/m
    })
    await unlock()
    await writeFile(join(dataDir, 'global/pg_control'), '')
    t.match(await look(), {
      code: 1,
      stdout: /^wrong +connection +.* cannot be opened: .*Restore the directory .*\n +→ a copy must be of the whole/m
    })
  })
})
