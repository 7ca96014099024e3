import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import quotaPlugin from '../../src/index.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { transaction } from '../../src/store/database.ts'
import { DenialTally } from '../../src/upkeep/denial-tally.ts'
import { TOKEN } from '../fixtures/admin.ts'
import { server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { untilWaiting } from '../fixtures/lock-waits.ts'
import { byHeader } from '../fixtures/metered.ts'

const CLIENTS = 50
const CHANGES = 24

async function serve(t: Test, url: string): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(quotaPlugin, {
    connection: { url, max: 8 },
    // How fast this machine answers is not what is tested here.
    storeTimeoutMs: 30_000,
    quotas: { calls: { limit: 100 }, tokens: { limit: 10_000, period: 'day' } },
    identify: byHeader,
    admin: { token: TOKEN }
  })
  const quota = ['calls', { type: 'tokens', amount: 3 }]
  app.get('/work', { config: { quota } }, async (request, reply) => {
    const { fails, costs } = request.query as { fails?: string; costs?: string }
    if (costs !== undefined) request.quota.setAmount('tokens', Number(costs))
    return reply.code(fails === undefined ? 200 : 500).send('x')
  })
  await app.ready()
  return app
}

/** Retries, as a script would, what is answered with 503 because a row was locked for too long. */
async function operate(app: FastifyInstance, method: 'POST' | 'PUT' | 'PATCH', url: string, payload?: object) {
  for (let attempt = 1; ; attempt++) {
    const reply = await app.inject({
      method,
      url: `/admin/quotas${url}`,
      headers: { 'x-admin-token': TOKEN },
      ...(payload ? { payload } : {})
    })
    if (reply.statusCode === 200) return reply.json()
    if (reply.statusCode !== 503 || attempt === 20) throw new Error(`${method} ${url}: ${reply.body}`)
  }
}

t.test('changes by an operator under load', async t => {
  const pg = await server(t)
  const url = await pg.migrated()
  const [one, two] = [await serve(t, url), await serve(t, url)]
  const look = await connect({ url, max: 1 })
  t.teardown(() => look.close())
  const ask = (app: FastifyInstance, query = '') => app.inject({ url: `/work${query}`, headers: { 'x-user': 'alice' } })
  await ask(one)

  t.test('resets, adjustments and time zone changes never lose or double a charge, not even for a moment', async t => {
    let charged = 1
    let changes = 0
    let isOver = false
    const clients = Array.from({ length: CLIENTS }, async (_, client) => {
      for (let i = 0; changes < CHANGES; i++) {
        const query = ['', '?fails=1', '?costs=2', '?costs=5'][(client + i) % 4]
        const { statusCode } = await ask(i % 2 === 0 ? one : two, query)
        if (statusCode === 200) charged += 1
        // Answered from memory without waiting for anything: the pause lets this process get to its sockets.
        else if (statusCode === 402) await new Promise(resolve => setTimeout(resolve, 2))
        else if (statusCode !== 500) throw new Error(`answered ${statusCode}`)
      }
    })
    const found: string[] = []
    const watching = (async () => {
      while (!isOver) found.push(...(await violations(look, { overLimit: true })))
    })()
    const operating = (async () => {
      for (let i = 0; !isOver && changes < CHANGES; i++) {
        const app = i % 2 === 0 ? one : two
        await operate(app, 'PUT', `/users/alice/adjust?quota_type=calls&new_limit=${[5, 1000, -1, 50][i % 4]}`)
        await operate(app, 'POST', `/users/alice/reset${i % 3 === 0 ? '' : '?quota_type=calls'}`)
        await operate(app, 'PATCH', '/users/alice', { time_zone: i % 2 === 0 ? 'Europe/Berlin' : 'UTC' })
        changes += 3
      }
    })()
    await Promise.all(clients).finally(() => {
      isOver = true
    })
    await Promise.all([watching, operating])
    t.strictSame(found, [])
    const [row] = await look.query<Record<string, number>>(
      `SELECT count(*) FILTER (WHERE t.type_key = 'calls')::int AS calls, count(*) FILTER (WHERE t.type_key = 'tokens')::int AS tokens,
              (SELECT count(*)::int FROM quota_reservations) AS held
         FROM usage_logs u JOIN quota_types t ON t.id = u.quota_type_id`
    )
    t.match(
      row,
      { calls: charged, tokens: charged, held: 0 },
      'every 200 has one row per charge, and no other reply has any'
    )
    t.ok(charged > 20, `${charged} charged`)
  })

  t.test('a limit that is lowered below what is used denies the very next request, in every process', async t => {
    await operate(one, 'PUT', '/users/alice/adjust?quota_type=calls&new_limit=-1')
    for (let i = 0; i < 5; i++) t.equal((await ask(two)).statusCode, 200)
    const lowered = await operate(one, 'PUT', '/users/alice/adjust?quota_type=calls&new_limit=2')
    t.match(lowered, { new_limit: 2, remaining: 0 })
    t.ok(lowered.current_usage >= 5)
    for (const app of [two, one]) {
      const denied = await ask(app)
      t.equal(denied.statusCode, 402)
      t.match(denied.json(), { limit: 2, remaining: 0, quota_type: 'calls' })
    }
    await operate(two, 'POST', '/users/alice/reset?quota_type=calls')
    // The process that did not reset may go on refusing for a second.
    await new Promise(resolve => setTimeout(resolve, 1_050))
    t.strictSame(
      [(await ask(one)).statusCode, (await ask(two)).statusCode, (await ask(one)).statusCode],
      [200, 200, 402]
    )
    t.strictSame(await violations(look, { overLimit: true }), [])
  })

  t.test('denials of a user who is being deleted do not keep those of others from being counted', async t => {
    for (const user of ['bob', 'carol']) await one.quota.consume(user, 'calls')
    const tally = new DenialTally(look)
    for (const userId of ['bob', 'carol'])
      tally.hear({
        name: 'denied',
        userId,
        endpoint: null,
        charges: [{ type: 'calls', amount: 1, remaining: 0, limit: 0 }],
        statusCode: 402,
        at: new Date('2026-03-10T12:00:00Z')
      })
    const other = await connect({ url, max: 2 })
    t.teardown(() => other.close())
    let flushed: Promise<void> | undefined
    await transaction(other, async query => {
      await query("DELETE FROM quota_users WHERE id = 'bob'")
      flushed = tally.flush()
      await untilWaiting(other)
    })
    await flushed
    t.match(await look.query("SELECT user_id FROM quota_denials WHERE hour = '2026-03-10T12:00:00Z'"), [
      { user_id: 'carol' }
    ])
  })
})
