// `setAmount` when the charge is already written: a client that leaves early does not pay less, nor does it end the process.
import { once } from 'node:events'
import { connect as openSocket } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { embedded } from '../fixtures/database.ts'
import { logsOf, metered, newUser, usedBy } from '../fixtures/metered.ts'

const db = await embedded(t)
const COSTS = { config: { quota: { type: 'tokens', amount: 1 } } } as const

type Handler = (request: FastifyRequest, reply: FastifyReply) => unknown

/** Sends a request, and leaves after the first bytes of the reply. */
async function leave(app: FastifyInstance, user: string): Promise<void> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as { port: number }
  const socket = openSocket(port, '127.0.0.1')
  socket.write(`GET / HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\n\r\n`)
  await once(socket, 'data')
  socket.destroy()
}

/** Waits until the only log row has this amount; returns the amount that it has in the end. */
async function amountOf(user: string, amount: number): Promise<number> {
  for (let i = 0; ; i++) {
    const logs = await logsOf(db, user)
    if (logs.length !== 1) throw new Error(`${logs.length} log rows`)
    if (logs[0]!.amount === amount || i === 200) return logs[0]!.amount
    await sleep(10)
  }
}

async function chargesLate(t: Test, handler: Handler): Promise<void> {
  const app = await metered(t, db, app => void app.get('/', COSTS, handler))
  const user = newUser()
  await leave(app, user)
  t.equal(await amountOf(user, 50), 50)
  t.equal(await usedBy(db, user, 'tokens'), 50)
}

t.test("charges the amount that a stream's generator sets in its finally block after the client has left", t =>
  chargesLate(t, (request, reply) =>
    reply.send(
      Readable.from(
        (async function* () {
          try {
            for (;;) {
              yield 'word '
              await sleep(5)
            }
          } finally {
            request.quota.setAmount('tokens', 50)
          }
        })()
      )
    )
  )
)

t.test('charges the amount that a close listener of a hijacked reply sets', t =>
  chargesLate(t, (request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200)
    const writing = setInterval(() => reply.raw.write('word '), 5)
    reply.raw.on('close', () => {
      clearInterval(writing)
      request.quota.setAmount('tokens', 50)
    })
  })
)

t.test('charges an amount that is set some time after the client of a stream has left', t =>
  chargesLate(t, (request, reply) => {
    const out = new PassThrough()
    out.write('word')
    reply.raw.on('close', () => setTimeout(() => request.quota.setAmount('tokens', 50), 30))
    return reply.send(out)
  })
)

t.test('charges the amount that the handler of a hijacked reply sets after the client has left', t =>
  chargesLate(t, async (request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200)
    for (let i = 0; i < 10; i++) {
      reply.raw.write('word ')
      await sleep(10)
    }
    request.quota.setAmount('tokens', 50)
    reply.raw.end()
  })
)

t.test('charges the amount that an onSend hook sets last, and shows it in the headers', async t => {
  const app = await metered(t, db, app => {
    app.addHook('onSend', async (request, _, payload) => {
      request.quota.setAmount('tokens', Buffer.byteLength(payload as string))
      request.quota.setAmount('tokens', Buffer.byteLength(payload as string) * 2)
    })
    app.get('/', COSTS, async () => 'ü'.repeat(100))
  })
  const user = newUser()
  const { statusCode, headers } = await app.inject({ url: '/', headers: { 'x-user': user } })
  t.equal(statusCode, 200)
  t.match(headers, { 'x-quota-cost': 400, 'x-quota-used': 400, 'x-quota-remaining': 600 })
  t.equal(await amountOf(user, 400), 400)
  t.match(app.quota.counts(), { charged: 1, amended: 1 })
  const again = await app.inject({ url: '/', headers: { 'x-user': user } })
  t.match(again.headers, { 'x-quota-cost': 400, 'x-quota-used': 800, 'x-quota-remaining': 200 })
})

t.test('the headers show an amount that an onSend hook sets even if it is written before they are sent', async t => {
  const app = await metered(t, db, app => {
    app.addHook('onSend', async request => {
      request.quota.setAmount('tokens', 50)
      while (app.quota.counts().amended === 0) await sleep(5)
    })
    app.get('/', { config: { quota: ['calls', { type: 'tokens', amount: 900 }] } }, async () => 'x')
  })
  const { headers } = await app.inject({ url: '/', headers: { 'x-user': newUser() } })
  t.match(headers, { 'x-quota-type': 'calls', 'x-quota-cost': 1, 'x-quota-used': 1, 'x-quota-remaining': 9 })
  t.match(headers.ratelimit, /^"calls";r=9;t=\d+, "tokens";r=950;t=\d+$/)
})

t.test(
  'the headers show what an onSend hook sets, but of a stream or web Response what is held until it ends',
  async t => {
    for (const settle of ['before-reply', 'after-reply'] as const) {
      const app = await metered(
        t,
        db,
        app => {
          app.addHook('onSend', async request => request.quota.setAmount('tokens', 50))
          app.get('/text', COSTS, async () => 'x')
          app.get('/stream', COSTS, async () => Readable.from(['x']))
          app.get('/web', COSTS, async () => new Response('x'))
        },
        { settle }
      )
      for (const url of ['/text', '/stream', '/web']) {
        const user = newUser()
        const { headers } = await app.inject({ url, headers: { 'x-user': user } })
        const figures = ['cost', 'used', 'remaining'].map(name => Number(headers[`x-quota-${name}`]))
        t.strictSame(figures, url === '/text' ? [50, 50, 950] : [1, 1, 999], `${url}, ${settle}`)
        t.equal(await amountOf(user, 50), 50)
      }
    }
  }
)

t.test('an amount lowered after the charge makes room at once, even for a user who was just denied', async t => {
  let set = (_: number) => {}
  const app = await metered(t, db, app => {
    app.get('/', { config: { quota: { type: 'tokens', amount: 1000 } } }, async request => {
      set = amount => request.quota.setAmount('tokens', amount)
      return 'done'
    })
  })
  const user = newUser()
  const ask = async () => (await app.inject({ url: '/', headers: { 'x-user': user } })).statusCode
  t.equal(await ask(), 200)
  t.equal(await ask(), 402)
  set(0)
  t.equal(await amountOf(user, 0), 0)
  t.equal(await ask(), 200)
})

t.test('a charge that is undone makes room at once, even for a user who was just denied', async t => {
  const user = newUser()
  const ask = async (url: string) => (await app.inject({ url, headers: { 'x-user': user } })).statusCode
  const config = { quota: { type: 'tokens', amount: 1000 } }
  const app = await metered(t, db, app => {
    const onSend = async (_: FastifyRequest, reply: FastifyReply) => {
      t.equal(await ask('/work'), 402)
      reply.code(500)
    }
    app.get('/undone', { config, onSend }, async () => 'done')
    app.get('/work', { config }, async () => 'done')
  })
  t.equal(await ask('/undone'), 500)
  while ((await usedBy(db, user, 'tokens')) > 0) await sleep(1)
  t.equal(await ask('/work'), 200)
})

t.test('setAmount charges nothing for a reply that was not charged, or whose charge was undone', async t => {
  let set = (_: number) => {}
  const app = await metered(t, db, app => {
    app.addHook('onSend', async (request, reply) => {
      set = amount => request.quota.setAmount('tokens', amount)
      if (request.url === '/undone') reply.code(500)
      set(7)
    })
    app.get('/failed', COSTS, (_, reply) => reply.code(404).send('none'))
    app.get('/undone', COSTS, async () => 'done')
  })
  for (const url of ['/failed', '/undone']) {
    const user = newUser()
    const { headers } = await app.inject({ url, headers: { 'x-user': user } })
    t.equal(Number(headers['x-quota-cost']), 0)
    set(9)
    await sleep(50)
    t.strictSame(await logsOf(db, user), [])
    t.equal(await usedBy(db, user, 'tokens'), 0)
  }
})
