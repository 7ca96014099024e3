import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import t from 'tap'
import { connect } from '../../../src/store/connection/connect.ts'
import { mayBeDone } from '../../../src/store/connection/may-be-done.ts'
import { type Database, type Query, transaction } from '../../../src/store/database.ts'
import { server } from '../../fixtures/database.ts'
import { pooler } from '../../fixtures/pooler.ts'
import { proxy } from '../../fixtures/proxy.ts'

const pg = await server(t)
const url = await pg.migrated()
const db = await connect(url)
t.teardown(() => db.close())

const insert = (query: Query, id: string) => query('INSERT INTO quota_users (id) VALUES ($1)', [id])
const isThere = async (id: string) => (await db.query('SELECT 1 FROM quota_users WHERE id = $1', [id])).length === 1
const pidOf = async (query: Query) => (await query<{ pid: number }>('SELECT pg_backend_pid() AS pid'))[0]!.pid
const end = (pid: number) => db.query('SELECT pg_terminate_backend($1::int, 5000)', [pid])

t.test('a transaction does everything or nothing', async t => {
  const answer = await transaction(db, async query => {
    await insert(query, 'both')
    await insert(query, 'of them')
    return 7
  })
  t.equal(answer, 7)
  t.ok((await isThere('both')) && (await isThere('of them')))
  const failing = transaction(db, async query => {
    await insert(query, 'first')
    await insert(query, 'both')
  })
  await t.rejects(failing, { code: 'FST_QUOTA_STORE', cause: { code: '23505' } })
  const thrown = new Error('planted')
  await t.rejects(
    transaction(db, async query => {
      await insert(query, 'first')
      throw thrown
    }),
    { code: 'FST_QUOTA_STORE', cause: thrown }
  )
  t.notOk(await isThere('first'))
  await insert(db.query, 'first')
  t.ok(await isThere('first'), 'the failed transaction holds no lock that others would wait for')
})

t.test('timeouts set for the role end neither statements nor transactions nor rows that are read slowly', async t => {
  const name = new URL(url).pathname.slice(1)
  await db.query(`ALTER ROLE postgres IN DATABASE ${name} SET statement_timeout = '100ms'`)
  await db.query(`ALTER ROLE postgres IN DATABASE ${name} SET idle_in_transaction_session_timeout = '100ms'`)
  const impatient = await connect(url)
  t.teardown(() => impatient.close())
  await impatient.query('SELECT pg_sleep(0.3)')
  await transaction(impatient, async query => {
    await query('SELECT pg_sleep(0.3)')
    await sleep(300)
    await query('SELECT 1')
  })
  const sizes: number[] = []
  for await (const rows of impatient.stream!('SELECT n FROM generate_series(1, 3) n', [], 2)) {
    sizes.push(rows.length)
    await sleep(300)
  }
  t.strictSame(sizes, [2, 1])
  await db.query(`ALTER ROLE postgres IN DATABASE ${name} RESET ALL`)
})

t.test('a transaction that the server rolled back is reported as failed', async t => {
  const swallowing = transaction(db, async query => {
    await insert(query, 'lost')
    await query('SELECT 1 / 0').catch(() => {})
  })
  await t.rejects(swallowing, { code: 'FST_QUOTA_STORE', message: /ended with ROLLBACK/ })
  t.notOk(await isThere('lost'))
})

const losses: Record<string, (query: Query) => Promise<unknown>> = {
  'between two statements': async query => end(await pidOf(query)),
  'while a statement runs': async query => {
    const pid = await pidOf(query)
    const running = query('SELECT pg_sleep(60)')
    await Promise.all([running, end(pid)])
  }
}

for (const [when, lose] of Object.entries(losses))
  t.test(`a connection lost ${when} undoes the transaction, and nothing of it runs on another connection`, async t => {
    for (let round = 0; round < 5; round++) {
      const losing = transaction(db, async query => {
        await insert(query, 'before')
        await lose(query).catch(() => {})
        await insert(query, 'between').catch(() => {})
        await insert(query, 'after')
      })
      await t.rejects(
        losing,
        { code: 'FST_QUOTA_STORE', message: /^(?!.*no answer within)/ },
        'not only by its deadline'
      )
    }
    for (const id of ['before', 'between', 'after']) t.notOk(await isThere(id))
    t.equal(await transaction(db, async () => 'works again'), 'works again')
  })

t.test("on the application's own client a lost connection fails the transaction, not the client", async t => {
  const network = await proxy(t, url)
  const client = postgres(network.url, { max: 2, fetch_types: false, backoff: () => 0, onnotice: () => {} })
  t.teardown(() => client.end({ timeout: 1 }))
  const own = await connect(drizzle(client))
  for (let round = 0; round < 6; round++) {
    const losing = transaction(own, async query => {
      await insert(query, `before ${round}`)
      if (round % 2 === 0) network.cut()
      else setTimeout(network.cut, 20)
      await query('SELECT pg_sleep(0.1)').catch(() => {})
      await insert(query, `after ${round}`)
    })
    await t.rejects(losing, { code: 'FST_QUOTA_STORE', cause: { code: 'CONNECTION_CLOSED' } })
    t.notOk(await isThere(`before ${round}`))
  }
  const [row] = await transaction(own, query => query("SELECT current_setting('transaction_isolation') AS level"))
  t.strictSame(row, { level: 'read committed' })
})

t.test('a transaction begins on a new connection if the idle one was lost', async t => {
  await end(await transaction(db, pidOf))
  t.type(await transaction(db, pidOf), 'number')
})

t.test(
  'at most three transactions run at once; one that waits too long is never begun, and one that runs too long is undone',
  async t => {
    let running = 0
    let most = 0
    const work = async (query: Query) => {
      most = Math.max(most, ++running)
      await query('SELECT pg_sleep(0.02)')
      running -= 1
    }
    await Promise.all(Array.from({ length: 12 }, () => transaction(db, work)))
    t.equal(most, 3)
    const long = Array.from({ length: 3 }, (_, i) =>
      transaction(
        db,
        async query => {
          await insert(query, `long ${i}`)
          await query('SELECT pg_sleep(30)')
        },
        600
      )
    )
    const outcomes = Promise.all(long.map(one => t.rejects(one, { message: /no answer within/ })))
    const waiting: unknown = await transaction(db, pidOf, 100).catch(error => error)
    t.match(waiting, { code: 'FST_QUOTA_STORE' })
    t.equal(await mayBeDone(waiting, 1), false)
    await outcomes
    t.equal(await transaction(db, async () => 'a free one'), 'a free one')
    t.notOk(await isThere('long 0'))
  }
)

t.test('close() ends the transactions that run, and begins none of those that wait', async t => {
  const closing = await connect({ url, max: 1 })
  let begun = 0
  const work = async (query: Query) => {
    begun += 1
    await query('SELECT pg_sleep(30)')
  }
  const [running, ...waiting] = [1, 2, 3].map(() => transaction(closing, work))
  const outcomes = Promise.all([
    t.rejects(running!, { code: 'FST_QUOTA_STORE', message: /CONNECTION_/ }, 'ended by the close, not by its deadline'),
    ...waiting.map(one => t.rejects(one, { code: 'FST_QUOTA_STORE', message: /it is closed/ }))
  ])
  while (begun === 0) await new Promise(resolve => setTimeout(resolve, 5))
  await closing.close()
  await outcomes
  t.equal(begun, 1)
})

t.test(
  'behind a pooler a transaction prepares nothing by name, not even COMMIT, and still applies its settings',
  async t => {
    const settings = async (through: Database) => {
      const names = () =>
        transaction(through, query => query('SELECT name FROM pg_prepared_statements WHERE $1', [true]))
      await names()
      const [row] = await transaction(through, query =>
        query("SELECT current_setting('lock_timeout') AS wait, current_setting('transaction_isolation') AS level")
      )
      return { names: (await names()).length, row }
    }
    const behind = await connect(await pooler(t, url))
    t.teardown(() => behind.close())
    t.strictSame(await settings(behind), { names: 0, row: { wait: '4s', level: 'read committed' } })
    t.not((await settings(db)).names, 0, 'on a direct connection it does')
  }
)
