import { once } from 'node:events'
import { connect as openSocket, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import { server } from '../fixtures/database.ts'
import { checkBooks, openReservations, until } from '../fixtures/ledger.ts'
import { askTagged, type Reply } from '../fixtures/load.ts'
import { metered } from '../fixtures/metered.ts'
import { type Network, proxy } from '../fixtures/proxy.ts'
import { type Target, target } from '../fixtures/target.ts'

const RESERVATION_TTL_MS = 4_000
const TOKEN = 'an-admin-token-of-a-test'
/** Ten seconds for owed charges, five for an attempt that began in the tenth, and the time that upkeep and the pools still wait. */
const CLOSE_MS = 25_000
/** In each round, other requests are under way. */
const CUT_ROUNDS = 8

const FAULTS: Record<string, (network: Network) => unknown> = {
  'refuses connections': network => network.refuse(),
  'is silent': network => network.silence()
}

const pg = await server(t)
// Most of it is waiting.
t.jobs = 3

/** Servers on a new database behind a network, each of which has charged already, and that database reached directly. */
async function stage(t: Test, count: number) {
  const url = await pg.migrated()
  const network = await proxy(t, url)
  const options = { connection: network.url, reservationTtlMs: RESERVATION_TTL_MS }
  const servers = await Promise.all(Array.from({ length: count }, () => target(t, options)))
  const db = await connect(url)
  t.teardown(() => db.close())
  const replies: Reply[] = []
  for (const { base, counts } of servers) {
    await until('it is charged', 10_000, async () => {
      replies.push(await askTagged(base, '/calls', 'alice'))
      return (await counts()).charged === 1
    })
  }
  const untilHeld = () => until('it is held', 10_000, async () => (await openReservations(db)) > 0)
  return { url, network, servers, db, replies, untilHeld }
}

/** How long it takes from SIGTERM to an orderly exit. */
async function end(t: Test, { child }: Target): Promise<number> {
  const ended = once(child, 'exit')
  const start = performance.now()
  child.kill('SIGTERM')
  t.strictSame(await ended, [0, null])
  return performance.now() - start
}

for (const [what, begin] of Object.entries(FAULTS)) {
  t.test(
    `a close while the database ${what} ends within 25 s, even with a charge owed`,
    { buffered: true },
    async t => {
      const { url, network, servers, db, replies, untilHeld } = await stage(t, 2)
      const [idle, owing] = servers as [Target, Target]
      const asked = askTagged(owing.base, '/calls?ms=2000', 'alice')
      await untilHeld()
      await begin(network)
      t.equal((await asked).status, 200, 'the reply is unaffected')
      t.match(await owing.counts(), { pending: 1 })
      const [first, second] = await Promise.all([end(t, idle), end(t, owing)])
      t.comment(`${Math.round(first)} ms with nothing owed, ${Math.round(second)} ms with a charge`)
      t.ok(first < CLOSE_MS && second < CLOSE_MS)
      // That charge is lost with its process, which said so in its log; what it held is released.
      await metered(t, db, () => {}, { connection: url, quotas: {}, reservationTtlMs: RESERVATION_TTL_MS })
      await checkBooks(t, db, { replies, servers: [], reservationTtlMs: RESERVATION_TTL_MS })
    }
  )

  t.test(
    `a fail-open route lets requests through within 2 s while the database ${what}, and counts them`,
    { buffered: true },
    async t => {
      const { network, servers, db, replies } = await stage(t, 1)
      const only = servers[0]!
      const ask = () => askTagged(only.base, '/open', 'alice')
      const before = replies.length
      await begin(network)
      for (let i = 0; i < 3; i++) replies.push(...(await Promise.all([ask(), ask(), ask(), ask(), ask()])))
      const during = replies.slice(before)
      t.strictSame(
        during.map(({ status }) => status),
        Array(15).fill(200)
      )
      t.ok(during.every(({ sentAt, endedAt }) => endedAt - sentAt < 2_000))
      // On a busy machine, the request before may have been let through as well.
      const { charged, unenforced } = await only.counts()
      t.equal(charged + unenforced, 16)
      t.ok(unenforced >= 15)
      await network.pass()
      await until('it is charged again', 5_000, async () => {
        replies.push(await ask())
        return (await only.counts()).charged > charged
      })
      await checkBooks(t, db, { replies, servers, reservationTtlMs: RESERVATION_TTL_MS })
    }
  )
}

t.test(
  'a close while the database is gone writes owed charges if the database comes back in time',
  { buffered: true },
  async t => {
    const { network, servers, db, replies, untilHeld } = await stage(t, 1)
    const asked = askTagged(servers[0]!.base, '/calls?ms=2000', 'alice')
    await untilHeld()
    await network.refuse()
    const reply = await asked
    t.equal(reply.status, 200)
    const ending = end(t, servers[0]!)
    setTimeout(network.pass, 2_000)
    t.comment(`${Math.round(await ending)} ms`)
    await checkBooks(t, db, { replies: [...replies, reply], servers: [], reservationTtlMs: RESERVATION_TTL_MS })
  }
)

t.test(
  'a close ends within 25 s while the usage log is added up on a connection that has gone silent',
  { buffered: true },
  async t => {
    const url = await pg.migrated()
    const network = await proxy(t, url)
    const db = await connect(url)
    t.teardown(() => db.close())
    const app = await metered(t, db, () => {}, { connection: network.url, admin: { token: TOKEN } })
    await app.quota.consume('alice', 'calls')
    const sql = postgres(url, { max: 1, onnotice: () => {} })
    t.teardown(() => sql.end({ timeout: 1 }))
    await sql`
      INSERT INTO usage_logs (user_id, id, quota_type_id, amount, created_at)
      SELECT user_id, gen_random_uuid(), quota_type_id, amount, now() - interval '2 days' + n * interval '1 second'
        FROM usage_logs, generate_series(1, 1000) n`
    const locker = postgres(url, { max: 1, onnotice: () => {} })
    t.teardown(() => locker.end({ timeout: 1 }))
    await locker`BEGIN`
    await locker`LOCK TABLE quota_usage_days IN SHARE ROW EXCLUSIVE MODE`
    await app.inject({ url: '/admin/quotas/statistics/calls', headers: { 'x-admin-token': TOKEN } })
    await until('it waits for the sums', 10_000, async () => {
      const waiting =
        await sql`SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
      return waiting.length > 0
    })
    network.silence()
    const start = performance.now()
    await app.close()
    t.ok(performance.now() - start < CLOSE_MS)
  }
)

/** A client that asks again as soon as it is answered. */
async function eager({ base }: Target, user: string): Promise<Socket> {
  const { port, hostname } = new URL(base)
  const socket = openSocket(Number(port), hostname)
  await once(socket, 'connect')
  const ask = () => socket.write(`GET /calls?ms=0 HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\n\r\n`)
  socket.on('data', ask).on('error', () => {})
  ask()
  return socket
}

t.test('clients that are cut off just before a close leave nothing reserved', { buffered: true }, async t => {
  const held: number[] = []
  for (let round = 0; round < CUT_ROUNDS; round++) {
    const { servers, db } = await stage(t, 1)
    const sockets = await Promise.all(Array.from({ length: 50 }, (_, i) => eager(servers[0]!, `user-${i % 10}`)))
    await sleep(500)
    for (const socket of sockets) socket.destroy()
    await end(t, servers[0]!)
    held.push(await openReservations(db))
  }
  t.strictSame(held, Array(CUT_ROUNDS).fill(0))
})
