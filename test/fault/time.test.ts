import t from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import { clockAt } from '../fixtures/clock.ts'
import { server } from '../fixtures/database.ts'
import { PATIENT } from '../fixtures/fault.ts'
import { checkBooks, checkReplies, openReservations, until } from '../fixtures/ledger.ts'
import { askTagged, load, type Reply, summary } from '../fixtures/load.ts'
import { target } from '../fixtures/target.ts'

const DAY_MS = 86_400_000

const pg = await server(t)

t.test('a process whose event loop is blocked for twice the time to live charges what it held, once', async t => {
  const url = await pg.migrated()
  const reservationTtlMs = 1_000
  const options = { ...PATIENT, connection: url, reservationTtlMs }
  const [blocked, other] = await Promise.all([target(t, options), target(t, options)])
  const db = await connect(url)
  t.teardown(() => db.close())
  const replies: Reply[] = []
  const { recovered, stop } = load(t, [other], { replies, clients: 6 })
  await recovered([other], 20_000)
  const beside = Array.from({ length: 6 }, () => askTagged(blocked.base, '/calls?ms=1000', 'mallory'))
  await until('they are held', 5_000, async () => (await openReservations(db, 'mallory')) === 6)
  const blocking = askTagged(blocked.base, `/calls?block=${2 * reservationTtlMs}`, 'mallory')
  await until('the other process releases what is held', 2 * reservationTtlMs, async () => {
    return (await openReservations(db, 'mallory')) === 0
  })
  const givenBackAt = performance.now()
  const own = [...(await Promise.all(beside)), await blocking]
  replies.push(...own)
  await recovered([other], 8_000)
  const after = await askTagged(blocked.base, '/calls', 'mallory')
  replies.push(after)
  await stop()
  t.ok(
    own.every(({ endedAt }) => endedAt > givenBackAt),
    'before any of them was answered'
  )
  t.strictSame(
    own.map(({ status }) => status),
    Array(7).fill(200)
  )
  t.equal(after.status, 200)
  await checkBooks(t, db, { replies, servers: [blocked, other], reservationTtlMs })
})

t.test('a handler that runs for three times the time to live keeps its reservation, and is charged once', async t => {
  const url = await pg.migrated()
  const reservationTtlMs = 1_000
  const options = { ...PATIENT, connection: url, reservationTtlMs }
  const [slow, other] = await Promise.all([target(t, options), target(t, options)])
  const db = await connect(url)
  t.teardown(() => db.close())
  const replies: Reply[] = []
  // The whole limit.
  const places = Array.from({ length: 25 }, (_, i) =>
    askTagged(slow.base, `/few?ms=${3 * reservationTtlMs + i}`, 'alice')
  )
  await until('they are held', 5_000, async () => (await openReservations(db)) === 25)
  const { recovered, stop } = load(t, [other], { replies, clients: 4, users: ['alice'] })
  await recovered([other], 8_000)
  const kept = await Promise.all(places)
  await stop()
  replies.push(...kept)
  t.strictSame(
    kept.map(({ status }) => status),
    Array(25).fill(200)
  )
  t.notOk(
    replies.some(({ base, path, status }) => base === other.base && path === '/few' && status === 200),
    'no other request of this quota was admitted'
  )
  await checkBooks(t, db, { replies, servers: [slow, other], reservationTtlMs })
})

t.test(
  'processes whose clocks are a day behind or ahead charge like any other, and end nothing early or late',
  async t => {
    const url = await pg.migrated()
    const reservationTtlMs = 1_500
    const quotas = { calls: { limit: 1_000_000, period: 'day' }, few: { limit: 25, period: 'day' } } as const
    const options = { ...PATIENT, connection: url, reservationTtlMs, quotas }
    const [behind, ahead, right] = await Promise.all([
      target(t, options, clockAt(new Date(Date.now() - DAY_MS).toISOString())),
      target(t, options, clockAt(new Date(Date.now() + DAY_MS).toISOString())),
      target(t, options)
    ])
    const servers = [behind, ahead, right]
    const db = await connect(url)
    t.teardown(() => db.close())
    const { replies, recovered, stop } = load(t, servers)
    // Each holds one for longer than its time to live, while all of them sweep.
    const held = servers.map(({ base }) => askTagged(base, `/calls?ms=${2 * reservationTtlMs}`, 'slow'))
    await recovered(servers, 20_000)
    const well = replies.length
    t.equal(await openReservations(db, 'slow'), 3)
    const kept = await Promise.all(held)
    await stop()
    t.strictSame(
      kept.map(({ status }) => status),
      [200, 200, 200]
    )
    t.comment(JSON.stringify(summary(replies)))
    checkReplies(t, replies.slice(well))
    replies.push(...kept)
    const [row] = await db.query<{ off: number }>(
      'SELECT max(abs(extract(epoch FROM now() - created_at)))::float8 AS off FROM usage_logs'
    )
    t.ok(row!.off < 60, "the log has the database's time")
    await checkBooks(t, db, { replies, servers, reservationTtlMs })
    // What a killed process held is released in time.
    const lost = [behind, ahead].map(({ base }) => askTagged(base, '/calls?ms=10000', 'slow'))
    await until('they are held', 5_000, async () => (await openReservations(db)) === 2)
    await Promise.all([behind.kill(), ahead.kill()])
    replies.push(...(await Promise.all(lost)))
    await checkBooks(t, db, { replies, servers: [right], reservationTtlMs })
  }
)
