import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import postgres from 'postgres'
import t from 'tap'
import quotaPlugin from '../../src/index.ts'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { viewQuotas } from '../../src/store/operator/view-quotas.ts'
import { hold } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'

const pg = await server(t)
const script = fileURLToPath(new URL('../fixtures/server.ts', import.meta.url))

async function start(url: string) {
  const child = fork(script, [url, '900'], { execArgv: process.execArgv })
  const [port] = (await once(child, 'message')) as [number]
  return { child, base: `http://127.0.0.1:${port}` }
}

const headers = { 'x-user': 'alice' }

t.test("another process's sweep releases what a killed process held, but not what a living one holds", async t => {
  const url = await pg.migrated()
  const [dying, living] = await Promise.all([start(url), start(url)])
  t.teardown(() => living.child.kill())
  const db = await connect(url)
  t.teardown(() => db.close())
  const held = async () => (await db.query<{ n: number }>('SELECT count(*)::int AS n FROM quota_reservations'))[0]?.n
  const lost = fetch(`${dying.base}/never`, { headers }).catch(() => 'torn')
  const kept = new AbortController()
  const waiting = fetch(`${living.base}/never`, { headers, signal: kept.signal }).catch(() => 'left')
  while ((await held()) !== 2) await sleep(20)
  dying.child.kill('SIGKILL')
  t.equal(await lost, 'torn')
  while ((await held()) === 2) await sleep(20)
  await sleep(1500)
  t.equal(await held(), 1, 'still held after more than the time to live')
  const { quotas } = await viewQuotas(db, 'alice', 'calls')
  t.match(quotas, [{ used: 0, reserved: 1, remaining: 99 }])
  kept.abort()
  await waiting
  while ((await held()) === 1) await sleep(20)
})

t.test('on SIGTERM a process finishes running requests, charges them, and exits with 0', async t => {
  const url = await pg.migrated()
  const { child, base } = await start(url)
  const replies = Array.from({ length: 20 }, () =>
    fetch(`${base}/slow`, { headers, signal: AbortSignal.timeout(10_000) }).then(r => r.status)
  )
  const db = await connect(url)
  t.teardown(() => db.close())
  const count = async (table: string) =>
    (await db.query<{ n: number }>(`SELECT count(*)::int AS n FROM ${table}`))[0]?.n
  while ((await count('quota_reservations')) !== 20) await sleep(20)
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  t.same(await Promise.all(replies), Array(20).fill(200))
  t.same(await ended, [0, null])
  t.equal(await count('usage_logs'), 20)
  t.equal(await count('quota_reservations'), 0)
})

t.test(
  "wrong or locked counters, however many, do not keep other users' expired reservations from being released",
  { timeout: 30_000 },
  async t => {
    const url = await pg.migrated()
    const db = await connect(url)
    t.teardown(() => db.close())
    await declareTypes(db, { calls: { limit: 10 } })
    const users = ['a wrong one', 'b locked', 'c', 'd']
    for (const user of users) await hold(db, user, { calls: 1 }, { leaseMs: 1 })
    await db.query("UPDATE quota_limits SET used_amount = 0 WHERE user_id = 'a wrong one'")
    // As many more as a sweep looks up at once, and before the others.
    await db.query("INSERT INTO quota_users (id) SELECT 'a ' || n FROM generate_series(1, 500) n")
    await db.query(`
      INSERT INTO quota_limits (user_id, quota_type_id, limit_amount, period_start)
      SELECT u.id, t.id, 10, date_trunc('month', now()) FROM quota_users u CROSS JOIN quota_types t WHERE u.id ~ '^a [0-9]'`)
    await db.query(`
      INSERT INTO quota_reservations (user_id, id, quota_type_id, amount, period_start, created_at, expires_at)
      SELECT user_id, gen_random_uuid(), quota_type_id, 1, period_start, period_start, now() FROM quota_limits WHERE user_id ~ '^a [0-9]'`)
    const lock = postgres(url, { max: 1, onnotice: () => {} })
    t.teardown(() => lock.end())
    await lock`BEGIN`
    await lock`SELECT 1 FROM quota_limits WHERE user_id = 'b locked' FOR UPDATE`
    const lines: unknown[] = []
    const app = Fastify({
      logger: { level: 'error', stream: { write: (line: string) => void lines.push(JSON.parse(line)) } }
    })
    t.teardown(() => app.close())
    await app.register(quotaPlugin, { connection: url, identify: () => 'nobody', reservationTtlMs: 300 })
    await app.ready()
    const left = async () =>
      (
        await db.query<{ id: string }>(
          "SELECT user_id AS id FROM quota_reservations WHERE user_id !~ '^a [0-9]' ORDER BY 1"
        )
      ).map(({ id }) => id)
    while ((await left()).length > 2) await sleep(20)
    t.strictSame(await left(), users.slice(0, 2))
    while (lines.length === 0) await sleep(20)
    t.match(lines[0], { task: 'expire reservations', msg: /upkeep failed/, err: { message: /23514/ } })
    await lock`ROLLBACK`
    while ((await left()).length > 1) await sleep(20)
    t.strictSame(await left(), users.slice(0, 1))
  }
)
