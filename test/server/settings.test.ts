import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type Environment, readSettings } from '../../src/server/settings.ts'

const TOKEN = 'an-admin-token-of-24-ch.'
const SECRET = 'a-jwt-secret-of-at-least-32-characters'
const SECRETS = { ADMIN_TOKEN: TOKEN, JWT_SECRET: SECRET }

const directory = (t: Test) => {
  const dir = mkdtempSync(join(tmpdir(), 'quota-settings-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  return dir
}

t.test('by default listens on 127.0.0.1:7500, with the embedded database, authentication and quotas', async t => {
  t.match(readSettings(SECRETS), {
    host: '127.0.0.1',
    port: 7500,
    logLevel: 'info',
    isAuthEnabled: true,
    isQuotaEnabled: true,
    connection: { dataDir: './.fastify-quota' },
    adminToken: TOKEN,
    isAdminTokenKept: false,
    jwtSecret: SECRET
  })
})

t.test('treats an empty variable as unset', async t => {
  const empty = {
    PORT: '',
    HOST: '',
    LOG_LEVEL: '',
    ENABLE_AUTH: '',
    ENABLE_QUOTA: '',
    DATABASE_URL: '',
    QUOTA_DATA_DIR: ''
  }
  t.strictSame(readSettings({ ...empty, ...SECRETS }), readSettings(SECRETS))
})

t.test('names an invalid variable, and says what it accepts', async t => {
  const wrong: [Environment, RegExp][] = [
    [{ PORT: 'http' }, /^PORT must be a whole number from 0 .* to 65535, but is 'http'/],
    [{ PORT: '65536' }, /^PORT must/],
    [{ PORT: '-1' }, /^PORT must/],
    [{ PORT: '80.5' }, /^PORT must/],
    [{ PORT: ' 80' }, /^PORT must/],
    [{ HOST: 'http://127.0.0.1' }, /^HOST must be an address/],
    [{ HOST: '127.0.0.1:80' }, /^HOST must/],
    [{ LOG_LEVEL: 'loud' }, /^LOG_LEVEL must be one of fatal, error, warn, info, debug, trace, silent, but is 'loud'/],
    [{ ENABLE_AUTH: 'no' }, /^ENABLE_AUTH must be true or false, but is 'no'/],
    [{ ENABLE_QUOTA: '0' }, /^ENABLE_QUOTA must be true or false/],
    [{ ADMIN_TOKEN: '15-characters..' }, /^ADMIN_TOKEN has 15 characters but needs at least 16/],
    [{ ADMIN_TOKEN: 'a token that no header carries\n' }, /^ADMIN_TOKEN may have only visible ASCII/],
    [{ JWT_SECRET: 'x'.repeat(31) }, /^JWT_SECRET has 31 characters but needs at least 32/],
    [{ QUOTA_DATA_DIR: 'postgres://localhost' }, /^QUOTA_DATA_DIR must be a directory.*DATABASE_URL/]
  ]
  for (const [environment, message] of wrong) t.throws(() => readSettings({ ...SECRETS, ...environment }), { message })
})

t.test('accepts secrets of the minimum length, and true and false in upper or lower case', async t => {
  const environment = { ADMIN_TOKEN: 'x'.repeat(16), JWT_SECRET: 'x'.repeat(32) }
  t.match(readSettings(environment), { adminToken: environment.ADMIN_TOKEN, jwtSecret: environment.JWT_SECRET })
  t.match(readSettings({ ...SECRETS, ENABLE_AUTH: 'False', ENABLE_QUOTA: 'TRUE' }), {
    isAuthEnabled: false,
    isQuotaEnabled: true
  })
})

t.test('accepts ENABLE_AUTH=false only on a loopback HOST', async t => {
  for (const HOST of ['127.0.0.1', '127.9.9.9', '::1', 'localhost', 'LocalHost'])
    t.equal(readSettings({ ...SECRETS, ENABLE_AUTH: 'false', HOST }).isAuthEnabled, false, HOST)
  for (const HOST of ['0.0.0.0', '::', '192.168.0.1', 'example.com', '127.0.0.1.example.com'])
    t.throws(
      () => readSettings({ ...SECRETS, ENABLE_AUTH: 'false', HOST }),
      { message: /^ENABLE_AUTH=false .*loopback/ },
      HOST
    )
})

t.test('requires both secrets with DATABASE_URL, instead of generating them', async t => {
  const DATABASE_URL = 'postgres://localhost/app'
  t.throws(() => readSettings({ DATABASE_URL, JWT_SECRET: SECRET }), { message: /^ADMIN_TOKEN is missing/ })
  t.throws(() => readSettings({ DATABASE_URL, ADMIN_TOKEN: TOKEN }), { message: /^JWT_SECRET is missing/ })
  t.equal(readSettings({ DATABASE_URL, ...SECRETS }).connection, DATABASE_URL)
})

t.test('does not require a secret that will not be used', async t => {
  const DATABASE_URL = 'postgres://localhost/app'
  t.equal(readSettings({ DATABASE_URL, JWT_SECRET: SECRET, ENABLE_QUOTA: 'false' }).adminToken, undefined)
  t.equal(readSettings({ DATABASE_URL, ADMIN_TOKEN: TOKEN, ENABLE_AUTH: 'false' }).jwtSecret, undefined)
})

t.test('keeps the secrets it generates in a file that only its owner can read, and reuses them', async t => {
  const QUOTA_DATA_DIR = join(directory(t), 'made')
  const first = readSettings({ QUOTA_DATA_DIR })
  t.match(first, { adminToken: /^[\w-]{32}$/, isAdminTokenKept: true, jwtSecret: /^[\w-]{43}$/ })
  t.strictSame(readdirSync(QUOTA_DATA_DIR), ['secrets.json'], 'there is no other file')
  t.equal(statSync(join(QUOTA_DATA_DIR, 'secrets.json')).mode & 0o777, 0o600)
  t.equal(statSync(QUOTA_DATA_DIR).mode & 0o777, 0o700)
  t.strictSame(readSettings({ QUOTA_DATA_DIR }), first)
  t.match(readSettings({ QUOTA_DATA_DIR, ADMIN_TOKEN: TOKEN }), {
    adminToken: TOKEN,
    isAdminTokenKept: false,
    jwtSecret: first.jwtSecret
  })
  t.not(readSettings({ QUOTA_DATA_DIR: directory(t) }).adminToken, first.adminToken)
})

t.test('does not overwrite the draft of a process with the same pid in another container', async t => {
  const QUOTA_DATA_DIR = directory(t)
  const draft = join(QUOTA_DATA_DIR, `secrets.json.${process.pid}`)
  writeFileSync(draft, 'theirs')
  readSettings({ QUOTA_DATA_DIR })
  t.equal(readFileSync(draft, 'utf8'), 'theirs')
})

t.test('refuses a secrets file that it cannot parse, and leaves it as it is', async t => {
  const QUOTA_DATA_DIR = directory(t)
  writeFileSync(join(QUOTA_DATA_DIR, 'secrets.json'), '{ "admin_token": ')
  t.throws(() => readSettings({ QUOTA_DATA_DIR }), { message: /secrets\.json does not hold the secrets/ })
  t.equal(readFileSync(join(QUOTA_DATA_DIR, 'secrets.json'), 'utf8'), '{ "admin_token": ')
})

t.test('creates missing parent directories, too', async t => {
  const dir = directory(t)
  t.ok(readSettings({ QUOTA_DATA_DIR: join(dir, 'a', 'b', 'c') }).adminToken)
  t.equal(statSync(join(dir, 'a', 'b', 'c')).mode & 0o777, 0o700)
})

t.test('refuses a directory in which secrets cannot be kept', async t => {
  const file = join(directory(t), 'a-file')
  writeFileSync(file, '')
  // /proc lets nobody create directories, and must not be tried forever.
  for (const QUOTA_DATA_DIR of [join(file, 'below'), '/proc/quota/below'])
    t.throws(() => readSettings({ QUOTA_DATA_DIR }), { message: /^QUOTA_DATA_DIR: secrets cannot be kept in/ })
})
