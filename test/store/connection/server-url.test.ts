import { once } from 'node:events'
import { createServer, connect as dial } from 'node:net'
import postgres from 'postgres'
import t from 'tap'
import { connect, open } from '../../../src/store/connection/connect.ts'
import { type Address, labelServer, readServer } from '../../../src/store/connection/server-url.ts'
import { server } from '../../fixtures/database.ts'

const listed = (addresses: readonly Address[]) => ({
  host: addresses.flatMap(({ host = [] }) => host),
  port: addresses.flatMap(({ port = [] }) => port)
})

/** The options that postgres.js ends up with. */
function made(url: string, options: object = {}) {
  const { url: rest, addresses, ...settings } = readServer({ url, ...options })
  const [address] = addresses.length === 1 ? addresses : [listed(addresses)]
  const { options: seen } = postgres(rest, { ...settings, ...address } as object) as unknown as {
    options: Record<string, unknown>
  }
  const { host, port, path, database, user, pass, ssl, prepare, connection, target_session_attrs: attributes } = seen
  const { application_name: _, ...sent } = connection as Record<string, unknown>
  return { host, port, path: path || undefined, database, user, pass, ssl, prepare, attributes, sent }
}

t.test('reads login, host, port and database, decoded', async t => {
  t.match(made('postgres://me:p%40ss%2F@db:6432/my%20db'), {
    host: ['db'],
    port: [6432],
    database: 'my db',
    user: 'me',
    pass: 'p@ss/'
  })
  t.match(made('postgresql://me@db'), { host: ['db'], port: [5432], user: 'me', database: 'me' })
  t.match(made('POSTGRES://a@b@db/x'), { host: ['db'], user: 'a@b' })
  t.match(made('postgres:///app?user=me&password=secret&host=db&port=99&dbname=other'), {
    host: ['db'],
    port: [99],
    user: 'me',
    pass: 'secret',
    database: 'other',
    sent: {}
  })
})

t.test('reads IPv6 addresses, several hosts, and sockets', async t => {
  t.match(made('postgres://me@[::1]:5433/app'), { host: ['::1'], port: [5433] })
  t.match(made('postgres://me@[fe80::2]/app'), { host: ['fe80::2'], port: [5432] })
  t.match(made('postgres://me@one:1111,[::1],three:3333/app?target_session_attrs=read-write'), {
    host: ['one', '::1', 'three'],
    port: [1111, 1111, 3333],
    attributes: 'primary',
    sent: {}
  })
  for (const url of [
    'postgres://me@%2Frun%2Fpg/app',
    'postgres://me@/app?host=/run/pg',
    'postgres:///app?host=/run/pg'
  ])
    t.match(made(url), { path: '/run/pg/.s.PGSQL.5432', database: 'app' }, url)
  t.match(made('postgres://me@/app?host=/cloudsql/a:b:c&port=7'), { path: '/cloudsql/a:b:c/.s.PGSQL.7' })
})

t.test('drops the parameters of libpq and Prisma, and keeps those of the server and postgres.js', async t => {
  const neon = 'postgres://me@db/app?sslmode=require&channel_binding=require&keepalives=1&keepalives_idle=30'
  t.match(made(neon), { ssl: 'require', prepare: true, sent: {} })
  t.strictSame(Object.keys(made(neon).sent), [])
  const prisma =
    'postgres://me@db/app?schema=public&pgbouncer=true&connection_limit=1&statement_timeout=500&options=-cjit%3Doff'
  t.strictSame(made(prisma).sent, { statement_timeout: '500', options: '-cjit=off' })
  t.equal(made('postgres://me@db/app?sslrootcert=system').ssl, 'verify-full')
  t.equal(made('postgres://me@db/app?sslmode=no-verify').ssl, 'require', 'as node-postgres and Heroku write it')
  t.strictSame(made('postgres://me@db/app?sslrootcert=system&target_session_attrs=any').sent, {})
})

t.test("prepares nothing by name with Prisma's pgbouncer=true, unless prepare is set", async t => {
  const url = 'postgres://me@db/app?pgbouncer=true'
  t.equal(readServer({ url }).prepare, false)
  t.equal(readServer({ url: `${url}&prepare=true` }).prepare, true)
  t.equal(readServer({ url, prepare: true }).prepare, true)
  t.notOk('prepare' in readServer({ url: 'postgres://me@db/app' }), 'otherwise it is detected')
})

t.test('options given beside the URL win over it', async t => {
  const url = 'postgres://me:secret@db:1/app?max=3&connect_timeout=7'
  t.match(readServer({ url }), { max: 3, connect_timeout: 7 })
  t.match(readServer({ url, max: 4 }), { max: 4 })
  t.match(made(url, { host: 'other', port: 2, database: 'else', user: 'you' }), {
    host: ['other'],
    port: [2],
    database: 'else',
    user: 'you'
  })
  t.match(made(url, { port: 2 }), { host: ['db'], port: [2] })
  t.match(made('postgres://one,two/app', { host: 'other' }), { host: ['other'], port: [5432] })
  t.match(made(url, { host: 'one:3,two' }), { host: ['one', 'two'], port: [3, 3] })
  t.equal(made(`${url}&target_session_attrs=any`, { target_session_attrs: 'read-write' }).attributes, 'primary')
  t.match(made(url, { db: 'else', username: 'you' }), { database: 'else', user: 'you' })
})

t.test('takes what the URL leaves out from the environment, as libpq does, or from the defaults', async t => {
  t.match(readServer({ url: 'postgres://me@db/app' }), { max: 10, connect_timeout: 2 })
  t.match(made('postgres:///app?user=me'), { host: ['localhost'], port: [5432] })
  const env = { PGHOST: 'here,there', PGPORT: '7', PGTARGETSESSIONATTRS: 'read-write' }
  t.intercept(process, 'env', { value: { ...process.env, ...env } })
  t.match(made('postgres:///app?user=me'), { host: ['here', 'there'], port: [7, 7], attributes: 'primary' })
  t.equal(readServer({ url: 'postgres:///app' }).addresses.length, 2)
  t.match(made('postgres://me@db:8/app?target_session_attrs=standby'), {
    host: ['db'],
    port: [8],
    attributes: 'standby'
  })
})

t.test('reads ports of their own for several hosts, a host given as hostname, and empty parameters', async t => {
  t.match(made('postgres://me@one,two/app?port=1,2'), { host: ['one', 'two'], port: [1, 2] })
  t.match(made('postgres://me@one,two/app?port=7'), { host: ['one', 'two'], port: [7, 7] })
  t.match(made('postgres://me@one:1,two:2/app?port=7'), { host: ['one', 'two'], port: [7, 7] })
  t.match(made('postgres://me@one,two/app', { hostname: 'other' }), { host: ['other'], port: [5432] })
  t.equal(readServer({ url: 'postgres://me@one,two/app', hostname: 'other' }).addresses.length, 1)
  t.match(made('postgres://me@db/app', { hostname: 'one:3,two' }), { host: ['one', 'two'], port: [3, 3] })
  const { addresses, hostname } = readServer({ url: 'postgres://me@db/app', hostname: 'one,two' })
  t.strictSame([addresses.length, hostname], [2, undefined], 'one server is asked at a time')
  t.match(made('postgres://me@db/app?dbname=&host='), { host: ['db'], database: 'app' })
  t.equal(readServer({ url: 'postgres://me@db/app?prepare=1' }).prepare, true)
  t.notOk('prepare' in readServer({ url: 'postgres://me@db/app?pgbouncer=false' }))
  t.match(readServer({ url: 'postgres://me@db:65535/app?max=1&connect_timeout=0' }), { max: 1, connect_timeout: 0 })
})

t.test('refuses a URL that it cannot read, without repeating the password', async t => {
  for (const [url, message] of [
    ['postgres://me:hunter2@db:99999/app', /valid URL/],
    ['postgres://me:hunter2@db:65536/app', /valid URL/],
    ['postgres://me:hunter2@db/app?max=0', /max=0; it must be a whole number of at least 1/],
    ['postgres://me:hunter2@db/app?connect_timeout=', /connect_timeout=; it must be a whole number of at least 0/],
    ['postgres+psycopg://me:hunter2@db/app', /postgres\+psycopg:\/\/, which is SQLAlchemy's/],
    ['postgres://me:hunter2@a,,b/app', /valid URL/],
    ['postgres://me:hunter2@::1/app', /valid URL/],
    ['postgres://me:hunter2@db/app?port=x', /port=x/],
    ['postgres://me:hunter2@db/app?sslrootcert=/ca.pem', /has sslrootcert.*write \{ url, ssl: \{ ca, cert, key \} \}/]
  ] as const) {
    t.throws(() => readServer({ url }), { code: 'FST_QUOTA_CONNECTION', message }, url)
    t.throws(() => readServer({ url }), { message: /^((?!hunter2).)*$/ })
  }
  t.doesNotThrow(() => readServer({ url: 'postgres://me@db/app?sslrootcert=/ca.pem', ssl: { ca: 'x' } }))
})

t.test('labels a server by its URL without the password', async t => {
  t.equal(labelServer('postgres://me:hunter2@db:1/app?password=hunter2'), 'postgres://me@db:1/app')
  t.equal(labelServer('postgres://me:hunter2@one:1,two:2/app'), 'postgres://me@one:1,two:2/app')
  t.equal(labelServer('postgres://db'), 'postgres://db')
  t.equal(labelServer('postgres://me:hunter2#@db'), 'a URL that is not valid')
})

t.test('connects with parameters of libpq, Prisma and the server, and to an IPv6 address', async t => {
  const pg = await server(t)
  const sql = postgres(pg.url(), { max: 1 })
  t.teardown(() => sql.end())
  await sql.unsafe('CREATE DATABASE "my db/ü?" TEMPLATE migrated')
  const url = pg.url(encodeURIComponent('my db/ü?'))
  // The same server behind an IPv6 address.
  const { port } = new URL(url)
  const six = createServer(socket => socket.pipe(dial(Number(port), '127.0.0.1')).pipe(socket)).listen(0, '::1')
  await once(six, 'listening')
  t.teardown(() => six.close())
  for (const given of [
    `${url}?channel_binding=prefer&keepalives=1&gssencmode=disable`,
    `${url}?schema=public&pgbouncer=true&connection_limit=5`,
    url.replace(/127\.0\.0\.1:\d+/, `[::1]:${(six.address() as { port: number }).port}`)
  ]) {
    const db = await connect(given)
    t.match(await db.query('SELECT current_database() AS name'), [{ name: 'my db/ü?' }], given)
    await db.close()
  }
  const db = await open(`${url}?statement_timeout=1234`)
  t.match(await db.query('SHOW statement_timeout'), [{ statement_timeout: '1234ms' }])
  await db.close()
})
