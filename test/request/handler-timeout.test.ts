import type { FastifyReply } from 'fastify'
import postgres from 'postgres'
import t from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import { server } from '../fixtures/database.ts'
import { until } from '../fixtures/ledger.ts'
import { ask, logsOf, metered, newUser, usedBy } from '../fixtures/metered.ts'

const pg = await server(t)
const url = await pg.migrated()
const db = await connect(url)
t.teardown(() => db.close())

/** Until `unlock` is called, nothing is charged or given back. */
async function lockReservations(t: import('tap').Test): Promise<() => Promise<void>> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end({ timeout: 1 }))
  await sql`BEGIN`
  await sql`LOCK TABLE quota_reservations IN SHARE MODE`
  return async () => {
    await sql`ROLLBACK`
  }
}

for (const [what, answer, statusCode, body, rows] of [
  ['a text reply', () => 'done', 200, 'done', 1],
  ['a web Response', () => new Response('done'), 200, 'done', 1],
  ['an error', reply => reply.code(418).send('no'), 418, 'no', 0]
] satisfies [string, (reply: FastifyReply) => unknown, number, string, number][])
  t.test(`${what} does not wait beyond its handlerTimeout for its charge to be written or given back`, async t => {
    let unlock = async () => {}
    const app = await metered(
      t,
      db,
      app =>
        void app.get('/work', { config: { quota: 'calls' }, handlerTimeout: 1_000 }, async (_, reply) => {
          unlock = await lockReservations(t)
          return answer(reply)
        }),
      { connection: url, storeTimeoutMs: 2_000 }
    )
    const user = newUser()
    t.match(await ask(app, user, '/work'), { statusCode, body, headers: { 'x-quota-cost': String(rows) } })
    await until('its write was refused', 5_000, async () => app.quota.counts().pending === 1)
    await unlock()
    t.equal((await logsOf(db, user)).length, rows, 'though the first write was refused after the reply')
    t.equal(await usedBy(db, user), rows)
  })

t.test('a reply that is ready long before its handlerTimeout is charged first', async t => {
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/work', { config: { quota: 'calls' }, handlerTimeout: 60_000 }, async () => {
        const unlock = await lockReservations(t)
        setTimeout(unlock, 300)
        return 'done'
      }),
    { connection: url, storeTimeoutMs: 20_000 }
  )
  const user = newUser()
  t.equal((await ask(app, user, '/work')).body, 'done')
  const rows = await db.query('SELECT 1 FROM usage_logs WHERE user_id = $1', [user])
  t.equal(rows.length, 1)
})
