import t from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import { example } from '../fixtures/example.ts'
import { logsOf } from '../fixtures/metered.ts'

const { app } = await example(t, 'streaming')
const db = await connect({ dataDir: './.fastify-quota' })
t.teardown(() => db.close())
const ask = (user: string, question: string) =>
  app.inject({ method: 'POST', url: '/chat', headers: { 'x-user-id': user }, payload: { question } })

t.test('charges the tokens that were streamed, not the estimate', async t => {
  const reply = await ask('alice', 'how many tokens is this')
  t.equal(reply.body, 'HOW MANY TOKENS IS THIS ')
  t.match(reply.headers, { 'x-quota-type': 'tokens', 'x-quota-cost': '100', 'x-quota-remaining': '900' })
  t.strictSame(await logsOf(db, 'alice'), [{ type: 'tokens', amount: 5, endpoint: '/chat', metadata: {} }])
  t.match(await app.quota.check('alice', 'tokens'), { used: 5, reserved: 0, remaining: 995 })
})

t.test('refuses a question if the longest possible answer would not fit', async t => {
  await app.quota.consume('bob', 'tokens', 901)
  const reply = await ask('bob', 'hello')
  t.equal(reply.statusCode, 402)
  t.match(reply.json(), { required: 100, remaining: 99 })
})

t.test('charges what was streamed until the client left', async t => {
  await app.listen({ port: 0 })
  const { port } = app.server.address() as { port: number }
  const leaving = new AbortController()
  const reply = await fetch(`http://127.0.0.1:${port}/chat`, {
    method: 'POST',
    signal: leaving.signal,
    headers: { 'x-user-id': 'carol', 'content-type': 'application/json' },
    body: JSON.stringify({ question: 'word '.repeat(100).trim() })
  })
  await reply.body?.getReader().read()
  leaving.abort()
  const [log] = await logsOf(db, 'carol')
  t.ok(log !== undefined && log.amount >= 1 && log.amount < 100, `${log?.amount} of 100 tokens`)
})
