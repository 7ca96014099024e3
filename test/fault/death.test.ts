import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { connect } from '../../src/store/connect.ts'
import { server } from '../fixtures/database.ts'
import { PATIENT, ROUNDS } from '../fixtures/fault.ts'
import { checkBooks, openReservations } from '../fixtures/ledger.ts'
import { load, type Reply, summary } from '../fixtures/load.ts'
import { target } from '../fixtures/target.ts'

const RESERVATION_TTL_MS = 2_000

const pg = await server(t)

t.test('a server killed under load loses no charge that a client heard of, and what it held comes back', async t => {
  const connection = await pg.migrated()
  const db = await connect(connection)
  t.teardown(() => db.close())
  const start = () => target(t, { ...PATIENT, connection, reservationTtlMs: RESERVATION_TTL_MS })
  const staying = await Promise.all([start(), start()])
  const replies: Reply[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const dying = await start()
    const servers = [dying, ...staying]
    const { recovered, stop } = load(t, servers, { clients: 18, replies })
    await recovered(servers, 20_000)
    const first = replies.length
    await sleep(100 + Math.random() * 300)
    await dying.kill()
    const held = await openReservations(db)
    await sleep(300)
    await stop()
    const now = replies.slice(first)
    t.strictSame(
      now.filter(({ base, status }) => base !== dying.base && ![200, 402, 409].includes(status as number)),
      [],
      `the others go on as ever: ${JSON.stringify(summary(now))}, ${held} held at the death`
    )
    await checkBooks(t, db, { replies, servers: staying, reservationTtlMs: RESERVATION_TTL_MS })
  }
})

t.test('on SIGTERM under load a server charges what it answers, owes nothing, and ends with 0', async t => {
  const connection = await pg.migrated()
  const db = await connect(connection)
  t.teardown(() => db.close())
  const replies: Reply[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const only = await target(t, { ...PATIENT, connection, reservationTtlMs: 60_000 })
    const { recovered, stop } = load(t, [only], { replies })
    await recovered([only], 20_000)
    const told = once(only.child, 'message')
    const ended = once(only.child, 'exit')
    only.child.kill('SIGTERM')
    t.strictSame(await ended, [0, null])
    t.match((await told)[0], { pending: 0, dropped: 0, 'store-failed': 0 }, 'nothing is owed')
    t.equal(await openReservations(db), 0, 'at once: it waits for no sweep')
    await stop()
    await checkBooks(t, db, { replies, servers: [], reservationTtlMs: 60_000 })
    const rows = await db.query("SELECT DISTINCT metadata->>'tag' AS tag FROM usage_logs")
    t.equal(rows.length, replies.filter(({ status }) => status === 200).length, 'who was cut off is not charged')
  }
})
