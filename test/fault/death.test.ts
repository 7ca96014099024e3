import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import { server } from '../fixtures/database.ts'
import { PATIENT, ROUNDS } from '../fixtures/fault.ts'
import { violations } from '../fixtures/invariants.ts'
import { checkBooks, openReservations } from '../fixtures/ledger.ts'
import { load, type Reply, summary } from '../fixtures/load.ts'
import { target } from '../fixtures/target.ts'

const RESERVATION_TTL_MS = 2_000
const DEATHS = 20
const CLIENTS = 50

const pg = await server(t)

t.test(
  'servers that are killed under load lose no charge whose reply was received, and what they held is released',
  async t => {
    const connection = await pg.migrated()
    const db = await connect(connection)
    t.teardown(() => db.close())
    const start = () => target(t, { ...PATIENT, connection, reservationTtlMs: RESERVATION_TTL_MS })
    const staying = await Promise.all([start(), start()])
    const replies: Reply[] = []
    let held = 0
    for (let round = 1; round <= DEATHS * ROUNDS; round++) {
      const dying = await start()
      const servers = [dying, ...staying]
      const { recovered, stop } = load(t, servers, { clients: CLIENTS, replies })
      await recovered(servers, 20_000)
      const first = replies.length
      await sleep(Math.random() * 300)
      await dying.kill()
      held += await openReservations(db)
      await stop()
      const now = replies.slice(first)
      t.strictSame(
        now.filter(({ base, status }) => base !== dying.base && ![200, 402, 409].includes(status as number)),
        [],
        `death ${round}, the other servers go on as before: ${JSON.stringify(summary(now))}`
      )
      t.strictSame(await violations(db), [], "no invariant is violated while the dead server's reservations are open")
      if (round % 5 === 0) await checkBooks(t, db, { replies, servers: staying, reservationTtlMs: RESERVATION_TTL_MS })
    }
    t.ok(held > 0, `${held} reservations were held at the deaths`)
  }
)

t.test('on SIGTERM under load a server charges what it answers, owes nothing, and exits with 0', async t => {
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
    t.equal(await openReservations(db), 0, 'at once, without a sweep')
    await stop()
    await checkBooks(t, db, { replies, servers: [], reservationTtlMs: 60_000 })
    const rows = await db.query("SELECT DISTINCT metadata->>'tag' AS tag FROM usage_logs")
    t.equal(rows.length, replies.filter(({ status }) => status === 200).length, 'cut-off requests are not charged')
  }
})
