import { once } from 'node:events'
import { connect as openSocket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/postgres-js'
import type { FastifyInstance } from 'fastify'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { server } from '../fixtures/database.ts'
import { openReservations, until } from '../fixtures/ledger.ts'
import { untilWaiting } from '../fixtures/lock-waits.ts'
import { metered, newUser, usedBy } from '../fixtures/metered.ts'

const pg = await server(t)

/** A listening application on a database of its own, and a second connection to that database. */
async function listening(t: Test, addRoutes: (app: FastifyInstance) => void, options = {}) {
  const url = await pg.migrated()
  const db = await connect(url)
  t.teardown(() => db.close())
  const app = await metered(t, db, addRoutes, { connection: url, ...options })
  await app.listen({ port: 0, host: '127.0.0.1' })
  return { app, db, url }
}

/** Sends a request over a socket of its own, and returns the socket. */
async function send(app: FastifyInstance, head: string, body = '') {
  const { port } = app.server.address() as { port: number }
  const socket = openSocket(port, '127.0.0.1')
  await once(socket, 'connect')
  socket.write(`${head}\r\n\r\n${body}`)
  return socket
}

const get = (url: string, user: string) => `GET ${url} HTTP/1.1\r\nhost: x\r\nx-user: ${user}`
/** A POST whose body never arrives in full. */
const torn = (url: string, user: string) =>
  `POST ${url} HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\ncontent-type: text/plain\r\ncontent-length: 9`

/** Locks all counters from another session, as a migration might; returns how to unlock them. */
async function lockCounters(t: Test, url: string): Promise<() => Promise<void>> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end({ timeout: 1 }))
  await sql`BEGIN`
  await sql`LOCK TABLE quota_limits`
  return async () => {
    await sql`ROLLBACK`
  }
}

const logged = async (db: Database): Promise<number> =>
  (await db.query<{ n: number }>('SELECT count(*)::int AS n FROM usage_logs'))[0]!.n

for (const [what, head] of Object.entries({ GET: get, 'POST whose body never arrives in full': torn })) {
  t.test(`closing leaves nothing reserved for a ${what} whose client left while it was being admitted`, async t => {
    let handled = 0
    const addRoutes = (app: FastifyInstance) => {
      app.route({ method: ['GET', 'POST'], url: '/', config: { quota: 'calls' }, handler: async () => ++handled })
    }
    const { app, db, url } = await listening(t, addRoutes)
    const user = newUser()
    await app.inject({ url: '/', headers: { 'x-user': user } })
    const unlock = await lockCounters(t, url)
    const sockets = await Promise.all([user, newUser(), newUser()].map(name => send(app, head('/', name), 'half')))
    await untilWaiting(db)
    for (const socket of sockets) socket.destroy()
    await sleep(20)
    const closed = app.close()
    await sleep(200)
    await unlock()
    await closed
    t.equal(await openReservations(db), 0)
    t.equal(await logged(db), await usedBy(db, user), 'every charge is in the log')
  })
}

/** Leaves Alice's second call reserved, with a body that never arrives in full. */
async function holdTorn(t: Test, { app, db, url }: { app: FastifyInstance; db: Database; url: string }) {
  await app.quota.consume('alice', 'calls')
  const unlock = await lockCounters(t, url)
  const socket = await send(app, torn('/', 'alice'), 'half')
  await untilWaiting(db)
  socket.destroy()
  await sleep(20)
  await unlock()
  await until('it is held', 5_000, async () => (await openReservations(db)) === 1)
}

t.test('closing gives back at once what is reserved for a request whose body never arrives in full', async t => {
  const addRoutes = (app: FastifyInstance) => void app.post('/', { config: { quota: 'calls' } }, async () => 'x')
  const { app, db, url } = await listening(t, addRoutes)
  await holdTorn(t, { app, db, url })
  await sleep(20)
  const start = performance.now()
  await app.close()
  t.ok(performance.now() - start < 3_000)
  t.equal(await openReservations(db), 0)
  t.equal(await usedBy(db, 'alice'), 1)
})

t.test(
  'without a close, the reservation of a request whose body never arrives in full expires and is forgotten',
  async t => {
    const addRoutes = (app: FastifyInstance) => void app.post('/', { config: { quota: 'calls' } }, async () => 'x')
    const { app, db, url } = await listening(t, addRoutes, { reservationTtlMs: 1_500 })
    await holdTorn(t, { app, db, url })
    await until('it is given back', 5_000, async () => (await openReservations(db)) === 0)
    t.equal(await usedBy(db, 'alice'), 1)
    // It is forgotten when it expires, which the database may have seen a little earlier.
    await sleep(1_000)
    await app.close()
    t.equal(app.quota.counts().released, 0, 'closing has nothing to give back')
  }
)

t.test('closing waits for a handler that began with an incomplete body, however long ago its client left', async t => {
  let begin = () => {}
  let isHandled = false
  const addRoutes = (app: FastifyInstance) => {
    app.addContentTypeParser('text/plain', (_request, payload, done) => done(null, payload))
    app.addHook('preParsing', async () => {
      await new Promise<void>(resolve => {
        begin = resolve
      })
    })
    app.post('/', { config: { quota: 'calls' } }, async () => {
      isHandled = true
      await sleep(1_500)
      return 'done'
    })
  }
  const { app, db, url } = await listening(t, addRoutes, { reservationTtlMs: 1_000 })
  await holdTorn(t, { app, db, url })
  begin()
  await until('it is handled', 5_000, async () => isHandled)
  // Longer than the request would be remembered if no handler had begun.
  await sleep(1_000)
  await app.close()
  t.equal(await openReservations(db), 0)
  t.equal(await usedBy(db, 'alice'), 2)
})

t.test(
  'a request that is still being identified when a close begins reserves nothing, and its handler does not run',
  async t => {
    let identify = () => {}
    let asked = () => {}
    const isAsked = new Promise<void>(resolve => {
      asked = resolve
    })
    let handled = 0
    const addRoutes = (app: FastifyInstance) => void app.get('/', { config: { quota: 'calls' } }, async () => ++handled)
    const url = await pg.migrated()
    const db = await connect(url)
    t.teardown(() => db.close())
    const client = postgres(url, { fetch_types: false, onnotice: () => {} })
    t.teardown(() => client.end())
    const app = await metered(t, db, addRoutes, {
      // Of the application: closing does not close it.
      connection: drizzle(client),
      identify: async () => {
        await new Promise<void>(resolve => {
          identify = resolve
          asked()
        })
        return 'alice'
      }
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const socket = await send(app, get('/', ''))
    await isAsked
    socket.destroy()
    await sleep(20)
    const closed = app.close()
    await sleep(20)
    identify()
    await closed
    await sleep(100)
    t.equal(await openReservations(db), 0)
    t.equal(handled, 0)
  }
)

t.test('closing waits for a handler whose client has left, and charges it', async t => {
  const addRoutes = (app: FastifyInstance) => {
    app.get('/', { config: { quota: 'calls' } }, async () => {
      await sleep(500)
      return 'done'
    })
  }
  const { app, db } = await listening(t, addRoutes)
  const socket = await send(app, get('/', 'alice'))
  await until('it is held', 5_000, async () => (await openReservations(db)) === 1)
  socket.destroy()
  await sleep(20)
  await app.close()
  t.equal(await openReservations(db), 0)
  t.equal(await logged(db), 1)
  t.equal(await usedBy(db, 'alice'), 1)
})

t.test('closing gives back what is reserved for handlers that never end, within twelve seconds', async t => {
  const addRoutes = (app: FastifyInstance) =>
    void app.get('/', { config: { quota: 'calls' } }, () => new Promise(() => {}))
  const { app, db } = await listening(t, addRoutes)
  const users = ['alice', 'bob', 'carol']
  const sockets = await Promise.all(users.map(user => send(app, get('/', user))))
  await until('all are held', 5_000, async () => (await openReservations(db)) === users.length)
  for (const socket of sockets) socket.destroy()
  await sleep(20)
  const start = performance.now()
  await app.close()
  t.ok(performance.now() - start < 12_000)
  t.equal(await openReservations(db), 0)
  for (const user of users) t.equal(await usedBy(db, user), 0)
})

t.test('closing rejects an app.quota.reserve that is under way, and leaves nothing reserved', async t => {
  const { app, db, url } = await listening(t, () => {})
  await app.quota.consume('alice', 'calls')
  const unlock = await lockCounters(t, url)
  const reserved = app.quota.reserve('alice', 'calls')
  reserved.catch(() => {})
  await untilWaiting(db)
  const closed = app.close()
  await sleep(200)
  await unlock()
  await closed
  await t.rejects(reserved, { code: 'FST_QUOTA_STORE' })
  await t.rejects(app.quota.reserve('alice', 'calls'), { code: 'FST_QUOTA_STORE' })
  t.equal(await openReservations(db), 0)
  t.equal(await usedBy(db, 'alice'), 1)
})
