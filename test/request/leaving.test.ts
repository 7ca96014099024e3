import { once } from 'node:events'
import { ServerResponse } from 'node:http'
import { connect as openSocket, type Socket } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type RouteHandlerMethod } from 'fastify'
import t, { type Test } from 'tap'
import quotaPlugin, { type QuotaOptions } from '../../src/index.ts'
import { embedded } from '../fixtures/database.ts'
import { until } from '../fixtures/ledger.ts'
import { byHeader, logsOf, metered, newUser, onEmbedded, QUOTAS, settled, usedBy } from '../fixtures/metered.ts'

const db = await embedded(t)

/** Sends a request over a real socket, and returns the socket. */
async function send(app: FastifyInstance, user: string, url: string, method = 'GET', body = '') {
  if (!app.server.listening) await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as { port: number }
  const socket = openSocket(port, '127.0.0.1')
  await once(socket, 'connect')
  const length = body === '' ? '' : `content-type: text/plain\r\ncontent-length: ${body.length}\r\n`
  socket.write(`${method} ${url} HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\n${length}\r\n${body}`)
  return socket
}

/** Holds a handler up until `open` is called; `arrival` resolves once the handler has reached it. */
function gate() {
  let open = () => {}
  let arrived = () => {}
  const opened = new Promise<void>(resolve => {
    open = resolve
  })
  const arrival = new Promise<void>(resolve => {
    arrived = resolve
  })
  return {
    open,
    arrival,
    wait: () => {
      arrived()
      return opened
    }
  }
}

/** Leaves once the handler is there, and lets that go on once the server has seen it. */
async function leave(socket: Socket, { arrival, open }: Pick<ReturnType<typeof gate>, 'arrival' | 'open'>) {
  await arrival
  socket.destroy()
  await sleep(50)
  open()
}

/** Asserts that a request for all of a user's calls keeps them when its client leaves, and is charged once its handler goes on. */
async function keepsItself(t: Test, app: FastifyInstance, url: string, held: ReturnType<typeof gate>, ms: number) {
  const user = newUser()
  const socket = await send(app, user, url)
  await held.arrival
  socket.destroy()
  await sleep(ms)
  t.equal((await app.inject({ url, headers: { 'x-user': user } })).statusCode, 402)
  held.open()
  t.equal((await logsOf(db, user)).length, 1)
  t.equal(await usedBy(db, user), 10)
}

for (const method of ['GET', 'POST']) {
  t.test(`charges a ${method} whose client left before the reply: the work was done`, async t => {
    const { open, arrival, wait } = gate()
    const app = await metered(t, db, app => {
      app.route({
        method,
        url: '/slow',
        config: { quota: 'calls' },
        handler: async () => {
          await wait()
          return 'done'
        }
      })
    })
    const user = newUser()
    const socket = await send(app, user, '/slow', method, method === 'POST' ? 'body' : '')
    await leave(socket, { arrival, open })
    t.equal((await logsOf(db, user)).length, 1)
  })

  t.test(`does not charge a ${method} whose client left and whose handler then failed`, async t => {
    const { open, arrival, wait } = gate()
    const app = await metered(t, db, app => {
      app.route({
        method,
        url: '/slow',
        config: { quota: 'calls' },
        handler: async () => {
          await wait()
          throw new Error('planted')
        }
      })
    })
    const user = newUser()
    const socket = await send(app, user, '/slow', method, method === 'POST' ? 'body' : '')
    await leave(socket, { arrival, open })
    t.same(await logsOf(db, user), [])
    t.equal(await usedBy(db, user), 0)
  })
}

for (const [how, handler] of Object.entries({
  'returns nothing': async (request, _, wait) => {
    await wait()
    t.ok(request.socket.destroyed)
  },
  'returns nothing as soon as it sees that': async (request, _, wait) => {
    const left = once(request.raw.socket, 'close')
    void wait()
    await left
  },
  'returns a promise of nothing without being async': (_, __, wait) => wait(),
  'returns nothing in the moment in which the connection breaks': async (request, _, wait) => {
    void wait()
    request.raw.socket.destroy()
  }
} satisfies Record<string, (request: FastifyRequest, reply: FastifyReply, wait: () => Promise<void>) => unknown>))
  for (const method of ['GET', 'POST'])
    t.test(
      `gives back at once what is reserved for a ${method} whose client has left and whose handler ${how}`,
      async t => {
        const { open, arrival, wait } = gate()
        const app = await metered(t, db, app => {
          const config = { quota: 'calls' }
          app.route({ method, url: '/job', config, handler: (request, reply) => handler(request, reply, wait) })
        })
        const user = newUser()
        const socket = await send(app, user, '/job', method, method === 'POST' ? 'body' : '')
        await arrival
        t.equal(await usedBy(db, user), 1)
        socket.destroy()
        await sleep(50)
        open()
        t.strictSame(await logsOf(db, user), [])
        t.equal(await usedBy(db, user), 0)
      }
    )

t.test(
  'learns the end of handlers that were declared before the plugin was loaded, and of the root of a prefix',
  async t => {
    const gates = [gate(), gate(), gate()]
    const app = Fastify()
    t.teardown(() => app.close())
    const work = { config: { quota: 'calls' } }
    void app.register(quotaPlugin, { ...onEmbedded(db), quotas: QUOTAS, identify: byHeader })
    app.get('/early', work, async () => gates[0]!.wait())
    const root = async (request: FastifyRequest) => gates[request.url.endsWith('/') ? 1 : 2]!.wait()
    void app.register(async child => void child.get('/', work, root), { prefix: '/root' })
    for (const [i, url] of ['/early', '/root/', '/root'].entries()) {
      const user = newUser()
      const socket = await send(app, user, url)
      await gates[i]!.arrival
      socket.destroy()
      await sleep(50)
      gates[i]!.open()
      t.strictSame(await logsOf(db, user), [], url)
      t.equal(await usedBy(db, user), 0, url)
    }
  }
)

t.test('charges a success that comes after a handler has returned nothing', async t => {
  const [first, second] = [gate(), gate()]
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/late', { config: { quota: 'calls' } }, async (_, reply) => {
        await first.wait()
        void second.wait().then(() => reply.send('done'))
      })
  )
  const user = newUser()
  const socket = await send(app, user, '/late')
  await first.arrival
  socket.destroy()
  await sleep(50)
  first.open()
  await settled(db, user)
  t.equal(await usedBy(db, user), 0)
  second.open()
  for (let i = 0; i < 100 && (await usedBy(db, user)) === 0; i++) await sleep(10)
  t.equal((await logsOf(db, user)).length, 1)
})

t.test('charges a reply that a handler sends after its client has left, and does not return', async t => {
  const { open, arrival, wait } = gate()
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/sends', { config: { quota: 'calls' } }, async (_, reply) => {
        await wait()
        reply.send('done')
      })
  )
  const user = newUser()
  const socket = await send(app, user, '/sends')
  await leave(socket, { arrival, open })
  t.equal((await logsOf(db, user)).length, 1)
  t.match(app.quota.counts(), { charged: 1, released: 0 })
})

t.test('charges an empty reply whose client leaves while another hook holds it up, and gives nothing back', async t => {
  const { open, arrival, wait } = gate()
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onSend', wait)
  await app.register(quotaPlugin, { ...onEmbedded(db), quotas: QUOTAS, identify: byHeader })
  app.delete('/it', { config: { quota: 'calls' } }, async (_, reply) => void reply.code(204))
  const user = newUser()
  const socket = await send(app, user, '/it', 'DELETE')
  await leave(socket, { arrival, open })
  t.equal((await logsOf(db, user)).length, 1)
  t.match(app.quota.counts(), { charged: 1, released: 0 })
})

for (const [what, handler] of Object.entries({
  'has returned its reply': async (reply, _, later) => {
    later(reply)
    return reply
  },
  'returns its reply once its client has left': async (reply, left, later) => {
    await left
    later(reply)
    return reply
  },
  'awaits its reply': async (reply, _, later) => {
    later(reply)
    await reply
  },
  'answers by a callback': (reply, _, later) => later(reply)
} satisfies Record<
  string,
  (reply: FastifyReply, left: Promise<void>, later: (reply: FastifyReply) => void) => unknown
>))
  t.test(`keeps the reservation of a handler that ${what}, to answer later, when its client leaves`, async t => {
    const held = gate()
    const app = await metered(t, db, app => {
      app.get('/later', { config: { quota: { type: 'calls', amount: 10 } } }, (request, reply) => {
        const left = new Promise(resolve => request.raw.on('close', resolve)).then(() => sleep(50))
        void held.wait()
        return handler(reply, left, reply => void held.wait().then(() => reply.send('done'))) as never
      })
    })
    await keepsItself(t, app, '/later', held, 300)
  })

t.test('gives back what is reserved for a handler that never replies, once its client has left', async t => {
  const { arrival, wait } = gate()
  const app = await metered(t, db, app => void app.get('/never', { config: { quota: 'calls' } }, () => wait()), {
    reservationTtlMs: 300
  })
  const user = newUser()
  const socket = await send(app, user, '/never')
  await arrival
  await sleep(500)
  t.equal(await usedBy(db, user), 1, 'kept beyond the time to live while the client waits')
  socket.destroy()
  t.same(await logsOf(db, user), [])
  t.equal(await usedBy(db, user), 0)
})

t.test(
  'logs the status 503, since none was sent, for what is given back because a handler returned nothing',
  async t => {
    const lines: { msg: string }[] = []
    const app = Fastify({
      logger: { level: 'debug', stream: { write: (line: string) => void lines.push(JSON.parse(line)) } }
    })
    t.teardown(() => app.close())
    await app.register(quotaPlugin, { quotas: QUOTAS, identify: byHeader, ...onEmbedded(db) })
    const held = gate()
    app.get('/never', { config: { quota: 'calls' } }, async () => await held.wait())
    const user = newUser()
    await leave(await send(app, user, '/never'), held)
    t.same(await logsOf(db, user), [])
    const told = () => lines.filter(({ msg }) => msg.startsWith('quota '))
    await until('a line is logged', 5_000, async () => told().length > 0)
    t.match(told(), [
      { msg: 'quota released', user, type: 'calls', amount: 1, remaining: 10, endpoint: '/never', status: 503 }
    ])
  }
)

t.test(
  'keeps the reservation of a handler that is still running after its client left, even beyond the time to live',
  async t => {
    const held = gate()
    const app = await metered(
      t,
      db,
      app =>
        void app.get('/long', { config: { quota: { type: 'calls', amount: 10 } } }, async () => {
          await held.wait()
          return 'done'
        }),
      { reservationTtlMs: 300 }
    )
    await keepsItself(t, app, '/long', held, 800)
  }
)

for (const [when, hook] of [
  ['while it was being identified', 'identify'],
  ['before its body was read', 'preParsing']
] as const)
  t.test(`gives back what is reserved for an upload that arrived in full but whose client left ${when}`, async t => {
    const { open, arrival, wait } = gate()
    const identify: QuotaOptions['identify'] = async request => {
      if (hook === 'identify') await wait()
      return request.headers['x-user'] as string
    }
    const app = await metered(
      t,
      db,
      app => {
        if (hook === 'preParsing') app.addHook('preParsing', async () => wait())
        app.post('/upload', { config: { quota: 'calls' } }, async () => 'done')
      },
      { identify, reservationTtlMs: 1_000 }
    )
    const user = newUser()
    const socket = await send(app, user, '/upload', 'POST', 'body')
    await leave(socket, { arrival, open })
    for (let i = 0; i < 100 && (await usedBy(db, user)) === 0; i++) await sleep(10)
    t.strictSame(await logsOf(db, user), [])
    t.equal(await usedBy(db, user), 0)
  })

for (const [what, head, handler] of [
  // Fastify does not read the body of a GET.
  ['a GET', 'GET', (wait: () => Promise<void>) => () => wait().then(() => 'done')],
  [
    'an upload whose file was received',
    'POST',
    (wait: () => Promise<void>) => async (request: FastifyRequest) => {
      await once(request.body as Readable, 'data')
      await wait()
      return 'done'
    }
  ],
  [
    'a hijacked reply',
    'GET',
    (wait: () => Promise<void>) => async (_: FastifyRequest, reply: FastifyReply) => {
      reply.hijack()
      await wait()
      reply.raw.end('done')
    }
  ]
] as const)
  t.test(
    `keeps the reservation of ${what} whose client left before the last byte of the body, while its handler runs`,
    async t => {
      const { open, arrival, wait } = gate()
      const app = await metered(
        t,
        db,
        app => {
          // Like @fastify/multipart: the handler reads the body itself.
          app.addContentTypeParser('application/octet-stream', (_, payload, done) => done(null, payload))
          const config = { quota: { type: 'calls', amount: 10 } }
          app.route({ method: head, url: '/torn', config, handler: handler(wait) as RouteHandlerMethod })
        },
        { reservationTtlMs: 300 }
      )
      const user = newUser()
      await app.listen({ port: 0, host: '127.0.0.1' })
      const socket = openSocket((app.server.address() as { port: number }).port, '127.0.0.1')
      const type = 'content-type: application/octet-stream\r\ncontent-length: 5'
      socket.write(`${head} /torn HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\n${type}\r\n\r\nfile`)
      await arrival
      socket.destroy()
      await sleep(800)
      t.equal((await app.inject({ method: head, url: '/torn', headers: { 'x-user': user } })).statusCode, 402)
      open()
      t.equal((await logsOf(db, user)).length, 1)
      t.equal(await usedBy(db, user), 10)
    }
  )

t.test('keeps the reservation of a handler that begins after its client has left an upload unfinished', async t => {
  const [parsing, handling] = [gate(), gate()]
  const app = await metered(
    t,
    db,
    app => {
      app.addContentTypeParser('application/octet-stream', (_, payload, done) => done(null, payload))
      app.addHook('preParsing', async request => {
        if (request.headers['content-type'] === 'application/octet-stream') await parsing.wait()
      })
      app.post('/torn', { config: { quota: { type: 'calls', amount: 10 } } }, async () => {
        await handling.wait()
        return 'done'
      })
    },
    { reservationTtlMs: 1_000 }
  )
  const user = newUser()
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = openSocket((app.server.address() as { port: number }).port, '127.0.0.1')
  const type = 'content-type: application/octet-stream\r\ncontent-length: 5'
  socket.write(`POST /torn HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\n${type}\r\n\r\nfile`)
  await parsing.arrival
  socket.destroy()
  await sleep(50)
  parsing.open()
  await handling.arrival
  // Longer than the reservation lives if it is not renewed.
  await sleep(1_500)
  t.equal((await app.inject({ method: 'POST', url: '/torn', headers: { 'x-user': user } })).statusCode, 402)
  handling.open()
  t.equal((await logsOf(db, user)).length, 1)
  t.equal(await usedBy(db, user), 10)
})

t.test('charges a reply that comes after its reservation was given back', async t => {
  const { open, arrival, wait } = gate()
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/late', { config: { quota: 'calls' } }, async () => {
        await wait()
        return 'done'
      }),
    { reservationTtlMs: 200 }
  )
  const user = newUser()
  const socket = await send(app, user, '/late')
  await arrival
  const [now] = await db.query<{ now: string }>('SELECT now()::text AS now')
  socket.destroy()
  await settled(db, user)
  t.equal(await usedBy(db, user), 0)
  open()
  for (let i = 0; i < 100 && (await usedBy(db, user)) === 0; i++) await sleep(10)
  t.equal((await logsOf(db, user)).length, 1)
  t.equal(await usedBy(db, user), 1)
  const since = 'SELECT 1 FROM usage_logs WHERE user_id = $1 AND created_at > $2::text::timestamptz'
  t.strictSame(await db.query(since, [user, now!.now]), [], 'as of when it was admitted')
})

t.test('charges a stream that the client aborts after a 200 was sent', async t => {
  const body = new PassThrough()
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/stream', { config: { quota: { type: 'tokens', amount: 100 } } }, async (request, reply) => {
        request.quota.setAmount('tokens', 7)
        body.write('first')
        return reply.send(body)
      })
  )
  const user = newUser()
  const socket = await send(app, user, '/stream')
  await once(socket, 'data')
  socket.destroy()
  t.match(await logsOf(db, user), [{ type: 'tokens', amount: 7 }])
})

for (const [what, settle, answer] of [
  ['a stream', 'before-reply', () => Readable.from(['done'])],
  ['a stream', 'after-reply', () => Readable.from(['done'])],
  ['a text reply', 'after-reply', () => 'done']
] as const)
  t.test(`charges ${what} that is sent after the client has left (${settle})`, async t => {
    const { open, arrival, wait } = gate()
    const app = await metered(
      t,
      db,
      app => {
        app.get('/slow', { config: { quota: 'calls' } }, async (_, reply) => {
          await wait()
          return reply.send(answer())
        })
      },
      { settle }
    )
    const user = newUser()
    const socket = await send(app, user, '/slow')
    await leave(socket, { arrival, open })
    t.equal((await logsOf(db, user)).length, 1)
  })

for (const [what, answer] of Object.entries({
  'a stream': () => new PassThrough(),
  'a web Response': () => new Response(Readable.toWeb(new PassThrough()) as ReadableStream)
}))
  for (const settle of ['before-reply', 'after-reply'] as const)
    t.test(`charges ${what} whose client left before its first byte (${settle})`, async t => {
      const { open, arrival, wait } = gate()
      const app = await metered(
        t,
        db,
        app => {
          app.get('/stream', { config: { quota: 'calls' } }, async (_, reply) => reply.send(answer()))
          app.get('/held-up', { config: { quota: 'calls' }, onSend: wait }, async (_, reply) => reply.send(answer()))
        },
        { settle }
      )
      const user = newUser()
      const socket = await send(app, user, '/stream')
      await sleep(100)
      socket.destroy()
      t.equal((await logsOf(db, user)).length, 1)
      const other = await send(app, user, '/held-up')
      await leave(other, { arrival, open })
      t.equal((await logsOf(db, user)).length, 2, 'even if it left during an onSend hook')
    })

t.test('does not charge a stream whose client left and whose onSend hook then failed', async t => {
  const { open, arrival, wait } = gate()
  const onSend = async () => {
    await wait()
    throw new Error('planted')
  }
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/fails', { config: { quota: 'calls' }, onSend }, async (_, reply) =>
        reply.send(Readable.from(['x']))
      )
  )
  const user = newUser()
  const socket = await send(app, user, '/fails')
  await leave(socket, { arrival, open })
  for (let i = 0; i < 100 && (await usedBy(db, user)) > 0; i++) await sleep(10)
  t.strictSame(await logsOf(db, user), [])
  t.equal(await usedBy(db, user), 0)
})

for (const [rule, rows] of [
  ['calls', 0],
  [{ type: 'calls', charge: (status: number) => status === 101 }, 1]
] as const)
  t.test(
    `a WebSocket is reserved while open, and on close ${rows ? 'charged if its rule charges 101' : 'given back by default'}`,
    async t => {
      const app = await metered(t, db, app => {
        // As @fastify/websocket does.
        app.server.on('upgrade', (request, socket) => {
          const raw = new ServerResponse(request)
          raw.assignSocket(socket as Socket)
          socket.on('end', () => socket.end()).resume()
          app.routing(request, raw)
        })
        app.get('/socket', { config: { quota: rule } }, (request, reply) => {
          reply.hijack()
          request.raw.socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n')
        })
      })
      const user = newUser()
      if (!app.server.listening) await app.listen({ port: 0, host: '127.0.0.1' })
      const socket = openSocket((app.server.address() as { port: number }).port, '127.0.0.1')
      socket.write(`GET /socket HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n`)
      await once(socket, 'data')
      t.equal(await usedBy(db, user), 1)
      socket.destroy()
      t.equal((await logsOf(db, user)).length, rows)
      t.equal(await usedBy(db, user), rows)
    }
  )

const is101 = (status: number) => status === 101
const charges = (rule: string, isAccepted: boolean) => isAccepted && rule === 'its own'

for (const [what, isInjected, answer] of [
  ['is refused', false, (socket: Socket) => socket.end('HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n')],
  [
    'is refused in two writes',
    false,
    (socket: Socket) => {
      socket.write('HTTP/1.1 400 Bad Request\r\n')
      socket.end('\r\n')
    }
  ],
  ['ends with a destroyed socket', false, (socket: Socket) => socket.destroy()],
  [
    'is accepted on an injected socket',
    true,
    (socket: Socket) => socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n')
  ]
] as const)
  for (const [rule, quota] of Object.entries({ 'the default': 'calls', 'its own': { type: 'calls', charge: is101 } }))
    t.test(
      `${charges(rule, isInjected) ? 'charges' : 'does not charge'} by ${rule} rule a WebSocket whose handshake ${what}`,
      async t => {
        const config = { quota }
        const rows = charges(rule, isInjected) ? 1 : 0
        const sockets = new WeakMap<object, Socket>()
        const app = await metered(t, db, app => {
          app.server.on('upgrade', (request, socket) => {
            const raw = new ServerResponse(request)
            raw.assignSocket(socket as Socket)
            sockets.set(request, socket as Socket)
            app.routing(request, raw)
          })
          app.get('/socket', { config }, (request, reply) => {
            reply.hijack()
            answer(sockets.get(request.raw) as Socket)
          })
        })
        const user = newUser()
        const headers = { host: 'x', 'x-user': user, connection: 'upgrade', upgrade: 'x' }
        if (isInjected) {
          // As `injectWS` of @fastify/websocket does.
          const socket = new PassThrough()
          app.server.emit(
            'upgrade',
            { method: 'GET', url: '/socket', httpVersion: '1.1', headers } as never,
            socket as never,
            Buffer.of()
          )
          await once(socket, 'data')
          socket.destroy()
        } else {
          await app.listen({ port: 0, host: '127.0.0.1' })
          const socket = openSocket((app.server.address() as { port: number }).port, '127.0.0.1')
          const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
          socket.write(`GET /socket HTTP/1.1\r\n${lines.join('')}\r\n`)
          socket.resume()
          await once(socket, 'close')
        }
        t.equal((await logsOf(db, user)).length, rows)
        t.equal(await usedBy(db, user), rows)
      }
    )

t.test('charges a raw reply even if another plugin makes its headersSent always false', async t => {
  const app = await metered(t, db, app => {
    // As @fastify/express does, for every reply.
    app.addHook('onRequest', async (_, { raw }) => void Object.defineProperty(raw, 'headersSent', { get: () => false }))
    app.get('/raw', { config: { quota: 'calls' } }, (_, reply) => void reply.hijack().raw.end('x'))
  })
  const user = newUser()
  t.equal((await app.inject({ url: '/raw', headers: { 'x-user': user } })).statusCode, 200)
  t.equal((await logsOf(db, user)).length, 1)
})

t.test('charges a stream that fails after a 200 was sent', async t => {
  const body = new PassThrough()
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/stream', { config: { quota: 'calls' } }, async (_, reply) => {
        body.write('first')
        return reply.send(body)
      })
  )
  const user = newUser()
  const socket = await send(app, user, '/stream')
  await once(socket, 'data')
  body.destroy(new Error('planted'))
  t.equal((await logsOf(db, user)).length, 1)
})

t.test('charges a stream when it ends, with the amount that was set meanwhile', async t => {
  const body = new PassThrough()
  let set = (_: number) => {}
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/stream', { config: { quota: { type: 'tokens', amount: 100 } } }, async (request, reply) => {
        set = amount => request.quota.setAmount('tokens', amount)
        body.write('first')
        return reply.send(body)
      })
  )
  const user = newUser()
  const socket = await send(app, user, '/stream')
  await once(socket, 'data')
  const { reserved, used } = await app.quota.check(user, 'tokens')
  t.same({ reserved, used }, { reserved: 100, used: 0 })
  set(42)
  body.end()
  t.match(await logsOf(db, user), [{ type: 'tokens', amount: 42 }])
  socket.destroy()
})

t.test('closing gives back nothing that was charged', async t => {
  const gates = [gate(), gate(), gate()]
  const app = await metered(t, db, app => {
    app.get('/:n', { config: { quota: 'calls' } }, async request => {
      await gates[Number((request.params as { n: string }).n)]!.wait()
      return 'done'
    })
  })
  const user = newUser()
  const statuses: Promise<number>[] = []
  for (const [n, { arrival }] of gates.entries()) {
    statuses.push(app.inject({ url: `/${n}`, headers: { 'x-user': user } }).then(({ statusCode }) => statusCode))
    await arrival
  }
  for (const [n, { open }] of gates.entries()) {
    open()
    t.equal(await statuses[n], 200)
  }
  await app.close()
  t.equal((await logsOf(db, user)).length, 3)
  t.equal(await usedBy(db, user), 3)
})

t.test('close resolves only once the charge of a running request is written', async t => {
  const { open, arrival, wait } = gate()
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/slow', { config: { quota: 'calls' } }, async () => {
        await wait()
        return 'done'
      }),
    { settle: 'after-reply' }
  )
  const user = newUser()
  const socket = await send(app, user, '/slow')
  await arrival
  const closed = app.close()
  open()
  await closed
  socket.destroy()
  t.equal(await usedBy(db, user), 1)
  const [row] = await db.query<{ logs: number; held: number }>(
    'SELECT (SELECT count(*)::int FROM usage_logs WHERE user_id = $1) AS logs, (SELECT count(*)::int FROM quota_reservations WHERE user_id = $1) AS held',
    [user]
  )
  t.same(row, { logs: 1, held: 0 })
})

t.test('does not crash the process when a hijacked reply is written to after its end', async t => {
  const app = await metered(t, db, app => {
    app.get('/late-write', { config: { quota: 'calls' } }, async (_, reply) => {
      reply.hijack().raw.end('x')
      // The first error reaches Fastify's own listener, which then removes itself.
      reply.raw.write('late')
      reply.raw.write('later')
    })
  })
  const user = newUser()
  const socket = await send(app, user, '/late-write')
  await once(socket, 'data')
  t.equal((await logsOf(db, user)).length, 1)
  socket.destroy()
})

for (const [how, answer] of Object.entries({
  'raw.end': raw => raw.end('done'),
  'writeHead and end': raw => raw.writeHead(200).end('done'),
  'write and end': raw => {
    raw.write('done')
    raw.end()
  },
  'a pipe': raw => void Readable.from(['done']).pipe(raw)
} satisfies Record<string, (raw: ServerResponse) => void>))
  t.test(`charges a hijacked reply sent with ${how} after its client has left`, async t => {
    const { open, arrival, wait } = gate()
    const app = await metered(t, db, app => {
      app.get('/hijacked', { config: { quota: 'calls' } }, async (_, reply) => {
        reply.hijack()
        await wait()
        answer(reply.raw)
      })
    })
    const user = newUser()
    const socket = await send(app, user, '/hijacked')
    await leave(socket, { arrival, open })
    t.equal((await logsOf(db, user)).length, 1)
  })

for (const [what, answer, charged] of [
  ['a stream', (reply: FastifyReply) => reply.send(Readable.from(['a', 'b'])), 1],
  ['a text reply', () => 'two', 1],
  ['a hijacked reply', (reply: FastifyReply) => void reply.hijack().raw.end('two'), 1],
  ['a handler that never replies', () => new Promise(() => {}), 0]
] as const)
  t.test(`nothing stays reserved for ${what} behind an earlier pipelined request when the socket dies`, async t => {
    const { open, arrival, wait } = gate()
    let arrived = () => {}
    const second = new Promise<void>(resolve => {
      arrived = resolve
    })
    const app = await metered(
      t,
      db,
      app => {
        app.get('/one', async () => {
          await wait()
          return 'one'
        })
        app.get('/two', { config: { quota: 'calls' } }, async (_, reply) => {
          arrived()
          return await answer(reply)
        })
      },
      { settle: 'after-reply', reservationTtlMs: 300 }
    )
    const user = newUser()
    const socket = await send(app, user, '/one')
    socket.write(`GET /two HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\n\r\n`)
    await arrival
    await second
    await sleep(50)
    socket.destroy()
    await sleep(50)
    open()
    t.equal((await logsOf(db, user)).length, charged)
  })

t.test(
  'nothing stays reserved for a pipelined request whose socket died while it was being identified, and whose handler never replies',
  async t => {
    const [one, identifying, two] = [gate(), gate(), gate()]
    const app = await metered(
      t,
      db,
      app => {
        app.get('/one', async () => one.wait())
        app.get('/two', { config: { quota: 'calls' } }, () => {
          void two.wait()
          return new Promise(() => {})
        })
      },
      {
        identify: async request => {
          await identifying.wait()
          return request.headers['x-user'] as string
        },
        reservationTtlMs: 300
      }
    )
    const user = newUser()
    const socket = await send(app, user, '/one')
    socket.write(`GET /two HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\n\r\n`)
    await identifying.arrival
    socket.destroy()
    await sleep(50)
    identifying.open()
    await two.arrival
    t.strictSame(await logsOf(db, user), [])
    t.equal(await usedBy(db, user), 0)
    one.open()
  }
)

t.test('many pipelined requests on one socket are all charged, without a warning about too many listeners', async t => {
  const warnings: unknown[] = []
  const warn = (warning: unknown) => warnings.push(warning)
  process.on('warning', warn)
  t.teardown(() => process.off('warning', warn))
  const { open, arrival, wait } = gate()
  const app = await metered(t, db, app => {
    app.get('/one', async () => {
      await wait()
      return 'one'
    })
    app.get('/two', { config: { quota: 'free' } }, async () => 'two')
  })
  const user = newUser()
  const socket = await send(app, user, '/one')
  socket.resume()
  for (let n = 0; n < 30; n++) socket.write(`GET /two HTTP/1.1\r\nhost: x\r\nx-user: ${user}\r\n\r\n`)
  await arrival
  await sleep(100)
  open()
  for (let n = 0; n < 500 && (await usedBy(db, user, 'free')) < 30; n++) await sleep(20)
  socket.destroy()
  t.equal((await logsOf(db, user)).length, 30)
  t.strictSame(warnings, [])
})

t.test('charges by the status that was sent, even if statusCode is changed afterwards', async t => {
  const late = (reply: FastifyReply, then: number) => {
    const body = new PassThrough()
    body.write('a')
    setTimeout(() => {
      reply.raw.statusCode = then
      body.end('b')
    }, 30)
    return body
  }
  const app = await metered(t, db, app => {
    const work = { config: { quota: 'calls' } }
    app.get('/stream', work, async (_, reply) => reply.send(late(reply, 500)))
    app.get('/raw', work, async (_, reply) => {
      reply.hijack()
      reply.raw.writeHead(200)
      late(reply, 500).pipe(reply.raw)
    })
    app.get('/failed', work, async (_, reply) => {
      reply.hijack()
      reply.raw.writeHead(500)
      late(reply, 200).pipe(reply.raw)
    })
  })
  for (const [url, charged] of [
    ['/stream', 1],
    ['/raw', 1],
    ['/failed', 0]
  ] as const) {
    const user = newUser()
    const socket = await send(app, user, url)
    socket.resume()
    await sleep(100)
    t.equal((await logsOf(db, user)).length, charged, url)
    socket.destroy()
  }
})
