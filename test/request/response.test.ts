import Fastify from 'fastify'
import postgres from 'postgres'
import t from 'tap'
import quotaPlugin from '../../src/index.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { findDiscrepancies } from '../../src/store/operator/reconcile.ts'
import { server } from '../fixtures/database.ts'
import { until } from '../fixtures/ledger.ts'
import { untilWaiting } from '../fixtures/lock-waits.ts'
import { byHeader, QUOTAS } from '../fixtures/metered.ts'

const pg = await server(t)
const url = await pg.migrated()
const db = await connect(url)
t.teardown(() => db.close())
const other = postgres(url, { max: 1 })
t.teardown(() => other.end())

/** From now on nothing is charged or given back, until `goOn` is called. */
let goOn = () => {}
const holdUp = () =>
  new Promise<void>(resolve => {
    void other.begin(async sql => {
      await sql`LOCK TABLE quota_reservations IN SHARE MODE`
      resolve()
      await new Promise<void>(end => {
        goOn = end
      })
    })
  })

const app = Fastify()
t.teardown(() => app.close())
await app.register(quotaPlugin, { connection: url, quotas: QUOTAS, identify: byHeader, storeTimeoutMs: 20_000 })

/** What a handler returns, its status, and what is charged by the time the reply has arrived. */
const answers: Record<
  string,
  [answer: (setAmount: (n: number) => void) => Response, status: number, amounts: number[]]
> = {
  text: [() => new Response('done'), 200, [1]],
  json: [() => Response.json({ ok: true }), 200, [1]],
  empty: [() => new Response(new ReadableStream({ start: body => body.close() })), 200, [1]],
  late: [
    setAmount =>
      new Response(
        new ReadableStream({
          pull(body) {
            setAmount(4)
            body.close()
          }
        }),
        { status: 201 }
      ),
    201,
    [4]
  ],
  refused: [() => new Response('no', { status: 409 }), 409, []]
}
for (const [name, [answer]] of Object.entries(answers))
  app.get(`/${name}`, { config: { quota: 'calls' } }, async request => {
    await holdUp()
    return answer(amount => request.quota.setAmount('calls', amount))
  })
const address = await app.listen({ port: 0, host: '127.0.0.1' })

for (const [name, [, status, amounts]] of Object.entries(answers))
  t.test(`ends a web Response (${name}) only once it is ${status < 300 ? 'charged' : 'given back'}`, async t => {
    let isOver = false
    const reply = fetch(`${address}/${name}`, { headers: { 'x-user': name } }).then(async reply => {
      await reply.text()
      isOver = true
      return reply
    })
    await untilWaiting(db)
    await new Promise(resolve => setTimeout(resolve, 100))
    t.notOk(isOver)
    goOn()
    t.equal((await reply).status, status)
    const rows = await db.query<{ amount: string }>('SELECT amount FROM usage_logs WHERE user_id = $1', [name])
    t.strictSame(
      rows.map(row => Number(row.amount)),
      amounts
    )
    t.equal((await db.query('SELECT 1 FROM quota_reservations')).length, 0)
    t.strictSame(await findDiscrepancies(db), [])
  })

for (const [what, answer] of [
  ['a text reply', () => 'done'],
  ['a web Response', () => new Response('done')]
] as const)
  t.test(`${what} does not wait for its charge with \`settle: 'after-reply'\``, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    const options = { connection: url, quotas: QUOTAS, identify: byHeader, storeTimeoutMs: 20_000 }
    await app.register(quotaPlugin, { ...options, settle: 'after-reply' })
    app.get('/', { config: { quota: 'calls' } }, async () => {
      await holdUp()
      return answer()
    })
    const reply = await fetch(await app.listen({ port: 0, host: '127.0.0.1' }), { headers: { 'x-user': what } })
    t.equal(await reply.text(), 'done')
    t.equal((await db.query('SELECT 1 FROM usage_logs WHERE user_id = $1', [what])).length, 0)
    goOn()
    await until('it is charged', 10_000, async () => app.quota.counts().charged === 1)
    t.equal((await db.query('SELECT 1 FROM usage_logs WHERE user_id = $1', [what])).length, 1)
  })
