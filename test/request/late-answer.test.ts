// A reservation that was answered 503 holds nothing, even if the database makes it after all; nor does one that was released.
import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/postgres-js'
import type { FastifyInstance } from 'fastify'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { ensureUser } from '../../src/store/charge/ensure-user.ts'
import { connect } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { server } from '../fixtures/database.ts'
import { openReservations, until } from '../fixtures/ledger.ts'
import { untilIdle, untilWaiting } from '../fixtures/lock-waits.ts'
import { METER_QUOTAS } from '../fixtures/meter.ts'
import { ask, logsOf, metered, newUser, usedBy } from '../fixtures/metered.ts'
import { proxy } from '../fixtures/proxy.ts'

const LIMIT = 10

const pg = await server(t)

function addRoutes(app: FastifyInstance): void {
  app.get('/', { config: { quota: 'calls' } }, async () => 'x')
  app.get('/both', { config: { quota: [{ type: 'calls' }, { type: 'tokens' }] } }, async () => 'x')
}

/** A database of the test's own, and a connection to it beside the application's. */
async function database(t: Test): Promise<{ url: string; db: Database }> {
  const url = await pg.migrated()
  const db = await connect(url)
  t.teardown(() => db.close())
  return { url, db }
}

/** The application's own Drizzle database, on which no timeout cancels a statement. */
function drizzleOn(t: Test, url: string) {
  const sql = postgres(url, { onnotice: () => {} })
  t.teardown(() => sql.end({ timeout: 1 }))
  return drizzle(sql)
}

/** An application on such a database. */
async function onOwnDatabase(t: Test) {
  const { url, db } = await database(t)
  return { url, db, app: await metered(t, db, addRoutes, { connection: drizzleOn(t, url) }) }
}

/** Runs this locking statement in another session; returns how to unlock. */
async function lock(t: Test, url: string, statement = 'SELECT 1 FROM quota_limits FOR UPDATE') {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end({ timeout: 1 }))
  await sql`BEGIN`
  await sql.unsafe(statement)
  return async () => {
    // So that what is tried right after the 503 finds nothing to give back yet.
    await sleep(200)
    await sql`ROLLBACK`
  }
}

/** Asserts that everything is given back soon, and that the whole limit can be used. */
async function isWhole(t: Test, app: FastifyInstance, db: Database, users: readonly string[]): Promise<void> {
  await untilIdle(db)
  await until('nothing is held', 2_000, async () => (await openReservations(db)) === 0)
  for (const user of users) {
    const statuses: number[] = []
    for (let i = 0; i < LIMIT; i++) statuses.push((await ask(app, user, '/')).statusCode)
    t.strictSame(statuses, Array(LIMIT).fill(200), user)
    t.equal((await ask(app, user, '/')).statusCode, 402)
  }
}

async function refused(t: Test, requests: readonly Promise<{ statusCode: number }>[]): Promise<void> {
  const statuses = (await Promise.all(requests)).map(({ statusCode }) => statusCode)
  t.strictSame(statuses, Array(requests.length).fill(503))
}

const see = async (app: FastifyInstance, users: readonly string[]) => {
  for (const user of users) await app.quota.consume(user, 'tokens')
}

t.test(
  'nothing stays reserved for requests that were answered 503 before the statement they share succeeds',
  async t => {
    const { url, db } = await database(t)
    const app = await metered(t, db, addRoutes, { connection: url })
    const users = Array.from({ length: 4 }, newUser) as [string, string, string, string]
    await see(app, users)
    const unlock = await lock(t, url, 'LOCK TABLE quota_limits')
    // The server cancels this one after 720 ms, and the one beside it later. Later requests share the next, and give up after 900 ms.
    const first = ask(app, users[0], '/')
    await untilWaiting(db, 1)
    const second = ask(app, users[1], '/')
    await untilWaiting(db, 2)
    await refused(t, [first, second, ...[2, 3, 3].map(n => ask(app, users[n] as string, '/'))])
    await untilWaiting(db, 1)
    await unlock()
    await isWhole(t, app, db, users)
  }
)

t.test('nothing stays reserved after a 503 because another session has locked the counter', async t => {
  const { url, db } = await database(t)
  const app = await metered(t, db, addRoutes, { connection: url })
  const user = newUser()
  await see(app, [user])
  const unlock = await lock(t, url)
  const first = ask(app, user, '/')
  await untilWaiting(db)
  await refused(t, [first, ask(app, user, '/'), ask(app, user, '/')])
  await untilWaiting(db)
  await unlock()
  await isWhole(t, app, db, [user])
})

t.test(
  "nothing stays reserved after a 503 on the application's own Drizzle database, where no timeout cancels the statement",
  async t => {
    const { url, db, app } = await onOwnDatabase(t)
    const user = newUser()
    await see(app, [user])
    const unlock = await lock(t, url)
    await refused(t, [ask(app, user, '/'), ask(app, user, '/both')])
    await unlock()
    await isWhole(t, app, db, [user])
  }
)

t.test('closing waits until what a request that was answered 503 reserved after all is given back', async t => {
  const { url, db, app } = await onOwnDatabase(t)
  const user = newUser()
  await see(app, [user])
  const unlock = await lock(t, url)
  await refused(t, [ask(app, user, '/')])
  const closed = app.close()
  t.equal(await Promise.race([closed.then(() => 'closed'), unlock().then(() => 'unlocked')]), 'unlocked')
  await closed
  t.equal(await openReservations(db), 0)
  t.equal(await usedBy(db, user), 0)
})

t.test(
  'nothing stays reserved after a 503 if the connection opens so slowly that the statement is sent only then',
  async t => {
    const { url, db } = await database(t)
    const network = await proxy(t, url)
    const app = await metered(t, db, addRoutes, { connection: network.url })
    const user = newUser()
    // Not through the application: its connection for requests is not open yet.
    await ensureUser(db, user)
    network.delay(400)
    await refused(t, [ask(app, user, '/')])
    await network.pass()
    await isWhole(t, app, db, [user])
  }
)

t.test(
  'nothing stays reserved after a 503 if the connection is lost but the database carries on with the statement',
  async t => {
    const { url, db } = await database(t)
    const network = await proxy(t, url)
    const app = await metered(t, db, addRoutes, { connection: network.url })
    const users = [newUser(), newUser()] as const
    await see(app, users)
    const unlock = await lock(t, url)
    const replies = [ask(app, users[0], '/'), ask(app, users[1], '/both')]
    await untilWaiting(db, 2, 50)
    network.cut()
    await refused(t, replies)
    await untilWaiting(db, 2)
    await unlock()
    await isWhole(t, app, db, users)
  }
)

const STORE = { code: 'FST_QUOTA_STORE' }
/** Given up after `storeTimeoutMs`: by itself, a statement on an application's own database would have two seconds. */
const IN_TIME = { ...STORE, message: /no answer (in time|within \d{1,3} ms)/ }

t.test('nothing stays reserved after an app.quota.reserve that timed out', async t => {
  const { url, db, app } = await onOwnDatabase(t)
  const user = newUser()
  await see(app, [user])
  const unlock = await lock(t, url)
  await t.rejects(app.quota.reserve(user, 'calls'), IN_TIME)
  await unlock()
  await isWhole(t, app, db, [user])
})

t.test('release gives everything back after a commit whose answer came too late', async t => {
  const { url, db, app } = await onOwnDatabase(t)
  const user = newUser()
  await see(app, [user])
  const job = await app.quota.reserve(user, { type: 'calls', amount: 4 })
  const unlock = await lock(t, url)
  await t.rejects(job.commit(), IN_TIME)
  await t.rejects(job.release(), IN_TIME, 'it may still be charged')
  await unlock()
  await job.release()
  await t.rejects(job.commit(), { code: 'FST_QUOTA_SETTLED' })
  t.equal((await logsOf(db, user)).length, 1, 'only the earlier charge of tokens is left')
  await isWhole(t, app, db, [user])
})

t.test('release gives everything back after a commit whose answer was lost with the connection', async t => {
  const { url, db } = await database(t)
  const network = await proxy(t, url)
  const app = await metered(t, db, addRoutes, { connection: network.url })
  const user = newUser()
  // Prepares the statement, so that the next commit is sent in one piece.
  await (await app.quota.reserve(user, 'tokens')).commit()
  const job = await app.quota.reserve(user, { type: 'calls', amount: 4 })
  network.cutAnswers()
  await t.rejects(job.commit({ amounts: { calls: 7 } }), STORE)
  await network.pass()
  t.match(await logsOf(db, user), [{ type: 'tokens' }, { type: 'calls', amount: 7 }], 'it was charged')
  await job.release()
  t.equal((await logsOf(db, user)).length, 1)
  await isWhole(t, app, db, [user])
})

/** Waits until no transaction is open, not even one that is idle between two statements. */
const untilOver = (db: Database) =>
  until('no transaction is open', 2_000, async () => {
    const open = await db.query(
      "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    return open.length === 0
  })

for (const [way, connectionOf] of Object.entries({
  'its own connections': (url: string) => url,
  "the application's Drizzle database": (url: string, t: Test) => drizzleOn(t, url)
}))
  t.test(`credit and setUsage give up sooner than reset, and change nothing afterwards, on ${way}`, async t => {
    const { url, db } = await database(t)
    const options = { connection: connectionOf(url, t), storeTimeoutMs: 300, quotas: METER_QUOTAS }
    const { quota } = await metered(t, db, () => {}, options)
    const user = newUser()
    await quota.setUsage(user, 'storage', 50)
    const unlock = await lock(t, url)
    const refused: string[] = []
    const refuse = (name: string, call: Promise<unknown>) => t.rejects(call, STORE).then(() => refused.push(name))
    await Promise.all([
      refuse('reset', quota.reset(user, 'calls')),
      refuse('level', quota.credit(user, 'storage', 10)),
      refuse('level', quota.setUsage(user, 'storage', 5))
    ])
    t.strictSame(refused, ['level', 'level', 'reset'])
    await unlock()
    await untilOver(db)
    t.equal(await usedBy(db, user, 'storage'), 50)
    t.equal((await quota.setUsage(user, 'storage', 5)).used, 5)
  })
