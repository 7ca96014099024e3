import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import t from 'tap'
import quotaPlugin from '../../src/index.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { server } from '../fixtures/database.ts'
import { proxy } from '../fixtures/proxy.ts'

const pg = await server(t)

t.test('a reservation stays held even if the connections used for renewal have died', async t => {
  const url = await pg.migrated()
  const network = await proxy(t, url)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(quotaPlugin, {
    connection: network.url,
    quotas: { calls: { limit: 1 } },
    identify: () => 'alice',
    reservationTtlMs: 6_000
  })
  await app.quota.reserve('alice', 'calls')
  // Each on a connection of its own.
  await Promise.all(Array.from({ length: 10 }, () => app.quota.adjust('alice', 'calls', 1)))
  network.silence()
  // New connections work.
  await network.pass()
  await sleep(5_000)
  const db = await connect(url)
  t.teardown(() => db.close())
  const held = await db.query('SELECT expires_at > now() AS is_held FROM quota_reservations')
  t.strictSame([...held], [{ is_held: true }])
})
