import { existsSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fastifyJwt from '@fastify/jwt'
import Fastify from 'fastify'
import t from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { ensureUser } from '../../src/store/charge/ensure-user.ts'
import { open } from '../../src/store/connection/connect.ts'
import { built } from '../fixtures/built.ts'
import { freePort, server } from '../fixtures/database.ts'

const SECRET = 'a-jwt-secret-of-at-least-32-characters'

t.test('fastify-quota', async t => {
  const build = await built(t)
  const run = (args: string[], environment: Record<string, string> = {}) => build.run('cli/main.js', args, environment)

  t.test('--help lists the commands, and the flags of each command', async t => {
    const help = await run(['--help'])
    t.match(help, { code: 0, stderr: '' })
    for (const command of ['init', 'doctor', 'token', 'reconcile', 'report']) {
      t.match(help.stdout, new RegExp(`^ {2}${command} `, 'm'))
      t.match(await run([command, '--help']), {
        code: 0,
        stdout: new RegExp(`^Usage: fastify-quota ${command} \\[flags\\][\\s\\S]*--data-dir DIR`)
      })
    }
  })

  t.test(
    'prints the usage and exits with 2 on an unknown command or flag, a repeated flag, or a missing value',
    async t => {
      for (const args of [
        ['nonsense'],
        ['init', '--nonsense'],
        ['doctor', 'extra'],
        ['token'],
        ['token', '--user'],
        ['init', '--types', ''],
        ['report', '--month', '2026-10', '--month', '2026-11']
      ])
        t.match(await run(args), { code: 2, stdout: '', stderr: /\n\nUsage: fastify-quota / }, args.join(' '))
      t.equal((await run([])).code, 2)
      t.equal((await run(['init', '--schema-only', '--all-users'])).code, 2)
      t.equal((await run(['doctor', '--database-url', 'postgres://x/y', '--data-dir', 'z'])).code, 2)
      const other = /DATABASE_URL must begin with postgres:.* leave it out, and set QUOTA_DATA_DIR/
      t.match(await run(['init'], { DATABASE_URL: 'mysql://me:hunter2@db/app' }), { code: 1, stderr: other })
      t.equal((await run(['token', '--user', 'alice', '--ttl', 'soon'])).code, 2)
    }
  )

  t.test('names the flag or variable behind a connection that fails', async t => {
    const url = `postgres://me:hunter2@127.0.0.1:${await freePort()}/none`
    const wrong = 'postgres://me:hunter2@db/app?max=0'
    const [byFlag, byVariable, poolByFlag] = await Promise.all([
      run(['report', '--database-url', url]),
      run(['init', '--schema-only'], { DATABASE_URL: url }),
      run(['reconcile', '--database-url', wrong])
    ])
    t.match(byFlag, {
      code: 1,
      stdout: '',
      stderr: /ECONNREFUSED\S* \S+ Check --database-url, and that the server is up/
    })
    t.match(byVariable, { code: 1, stderr: /ECONNREFUSED.* Check DATABASE_URL, and that the server is up/ })
    t.match(poolByFlag, { code: 1, stderr: /--database-url has max=0; it must be a whole number of at least 1/ })
    t.notMatch(byFlag.stderr, /DATABASE_URL/)
    for (const { stderr } of [byFlag, byVariable, poolByFlag]) t.notMatch(stderr, /option|hunter2/)
  })

  t.test('token prints a JWT for the user, signed with JWT_SECRET or the secret in the data directory', async t => {
    const app = Fastify()
    await app.register(fastifyJwt, { secret: SECRET, verify: { algorithms: ['HS256'] } })
    const { code, stdout } = await run(['token', '--user', 'alice', '--ttl', '15m'], { JWT_SECRET: SECRET })
    t.equal(code, 0)
    const { sub, iat, exp } = app.jwt.verify<{ sub: string; iat: number; exp: number }>(stdout.trim())
    t.strictSame([sub, exp - iat], ['alice', 900])
    await mkdir(join(build.dir, 'kept'))
    await writeFile(
      join(build.dir, 'kept/secrets.json'),
      JSON.stringify({ admin_token: 'x'.repeat(16), jwt_secret: SECRET })
    )
    const kept = await run(['token', '--user', 'bob'], { QUOTA_DATA_DIR: 'kept' })
    t.match(app.jwt.verify(kept.stdout.trim()), { sub: 'bob' })
    const named = await run(['token', '--user', 'carol', '--data-dir', 'kept'], { JWT_SECRET: `another ${SECRET}` })
    t.match(app.jwt.verify(named.stdout.trim()), { sub: 'carol' }, '--data-dir comes before JWT_SECRET')
  })

  t.test('token says what to do if there is no secret, or one that is too short', async t => {
    t.match(await run(['token', '--user', 'alice']), {
      code: 1,
      stdout: '',
      stderr: /JWT_SECRET is not set, and none is kept in .*Set JWT_SECRET/
    })
    t.match(await run(['token', '--user', 'alice'], { JWT_SECRET: 'short' }), {
      code: 1,
      stderr: /JWT_SECRET has 5 characters/
    })
  })

  t.test('reconcile lists the counters that do not match their rows, and changes none', async t => {
    const pg = await server(t)
    const DATABASE_URL = await pg.migrated()
    const db = await open(DATABASE_URL)
    t.teardown(() => db.close())
    await declareTypes(db, { calls: { limit: 10 } })
    await ensureUser(db, 'alice')
    t.match(await run(['reconcile'], { DATABASE_URL }), {
      code: 0,
      stdout: 'Every counter is the sum of its log rows and reservations.\n'
    })
    t.match(await run(['reconcile', '--json'], { DATABASE_URL }), { code: 0, stdout: '[]\n' })
    await db.query("UPDATE quota_limits SET used_amount = 3 WHERE user_id = 'alice'")
    for (const _ of [1, 2]) {
      const { code, stdout } = await run(['reconcile', '--json'], { DATABASE_URL })
      t.equal(code, 1)
      t.match(JSON.parse(stdout), [{ user_id: 'alice', quota_type: 'calls', used_amount: 3, logged: 0, held: 0 }])
    }
    t.match(await run(['reconcile'], { DATABASE_URL }), { code: 1, stdout: /^alice +calls +\S+Z +3 +0 +0 +0\n/m })
    t.match(await run(['reconcile', '--database-url', await pg.empty()]), {
      code: 1,
      stdout: '',
      stderr: /quota tables are not as this version needs them/
    })
  })

  t.test('reconcile and report fail if there is no embedded database', async t => {
    for (const command of ['reconcile', 'report']) {
      t.match(await run([command, '--data-dir', 'nowhere']), {
        code: 1,
        stderr: /There is no embedded database in nowhere/
      })
      t.notOk(existsSync(join(build.dir, 'nowhere')), 'and makes none')
    }
  })
})
