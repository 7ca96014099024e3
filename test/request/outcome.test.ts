import { Readable } from 'node:stream'
import type { RouteHandlerMethod } from 'fastify'
import t from 'tap'
import { embedded } from '../fixtures/database.ts'
import { ask, logsOf, metered, newUser, usedBy } from '../fixtures/metered.ts'

const db = await embedded(t)

interface Case {
  title: string
  status: number
  isCharged: boolean
  route: RouteHandlerMethod
  options?: object
  method?: 'GET' | 'HEAD'
}

/** Fastify calls different hooks on each of these paths; what counts is the status that is sent. */
const cases: Case[] = [
  { title: 'an object', status: 200, isCharged: true, route: async () => ({ ok: true }) },
  { title: '204 without a body', status: 204, isCharged: true, route: async (_, reply) => reply.code(204).send() },
  {
    title: 'a HEAD that the GET handler answers',
    method: 'HEAD',
    status: 200,
    isCharged: true,
    route: async () => 'body'
  },
  { title: 'a stream', status: 200, isCharged: true, route: async (_, reply) => reply.send(Readable.from(['a', 'b'])) },
  {
    title: 'a web ReadableStream',
    status: 200,
    isCharged: true,
    route: async (_, reply) => reply.send(new Response('x').body)
  },
  {
    title: 'a web Response with 201, after reply.code(500)',
    status: 201,
    isCharged: true,
    route: async (_, reply) => {
      reply.code(500)
      return new Response('x', { status: 201 })
    }
  },
  {
    title: 'a web Response with 500',
    status: 500,
    isCharged: false,
    route: async () => new Response('x', { status: 500 })
  },
  {
    title: 'a hijacked reply with 200',
    status: 200,
    isCharged: true,
    route: async (_, reply) => void reply.hijack().raw.end('x')
  },
  {
    title: 'a hijacked reply with 500',
    status: 500,
    isCharged: false,
    route: async (_, reply) => void reply.hijack().raw.writeHead(500).end()
  },
  { title: 'a thrown error', status: 500, isCharged: false, route: async () => Promise.reject(new Error('planted')) },
  { title: 'a body that cannot be serialized', status: 500, isCharged: false, route: async () => ({ n: 1n }) },
  {
    title: 'a handler that answers 404',
    status: 404,
    isCharged: false,
    route: async (_, reply) => reply.code(404).send('none')
  },
  { title: 'a 304', status: 304, isCharged: false, route: async (_, reply) => reply.code(304).send() },
  { title: 'a redirect', status: 302, isCharged: false, route: async (_, reply) => reply.redirect('/elsewhere') },
  {
    title: 'a reply with a header that Node refuses',
    status: 500,
    isCharged: false,
    route: async (_, reply) => reply.header('x-bad', 'a\r\nb').send('x')
  },
  {
    title: 'a stream that fails before its first byte',
    status: 500,
    isCharged: false,
    route: async (_, reply) =>
      reply.send(
        new Readable({
          read() {
            this.destroy(new Error('planted'))
          }
        })
      )
  },
  {
    title: 'a reply whose later onSend hook throws',
    status: 500,
    isCharged: false,
    route: async () => 'x',
    options: { onSend: async () => Promise.reject(new Error('planted')) }
  },
  {
    title: 'a reply that a later onSend hook turns from 200 into 502',
    status: 502,
    isCharged: false,
    route: async () => 'x',
    options: {
      onSend: async (_: unknown, reply: { code(status: number): void }, payload: unknown) => {
        reply.code(502)
        return payload
      }
    }
  },
  {
    title: 'an error that the error handler turns into 200',
    status: 200,
    isCharged: true,
    route: async () => Promise.reject(new Error('planted')),
    options: {
      errorHandler: (_: unknown, __: unknown, reply: { code(n: number): { send(x: string): void } }) =>
        reply.code(200).send('fine')
    }
  },
  {
    title: 'a hook that answers 200 before the handler',
    status: 200,
    isCharged: true,
    route: async () => 'never',
    options: { preValidation: async (_: unknown, reply: { send(x: string): unknown }) => reply.send('cached') }
  },
  {
    title: 'a hook that answers 403 before the handler',
    status: 403,
    isCharged: false,
    route: async () => 'never',
    options: {
      preHandler: async (_: unknown, reply: { code(n: number): { send(x: string): unknown } }) =>
        reply.code(403).send('no')
    }
  },
  {
    title: 'a query that the schema refuses',
    status: 400,
    isCharged: false,
    route: async () => 'never',
    options: { schema: { querystring: { type: 'object', required: ['missing'], properties: { missing: {} } } } }
  },
  {
    title: 'a handler that exceeds its handlerTimeout',
    status: 503,
    isCharged: false,
    route: () => new Promise(() => {}),
    options: { handlerTimeout: 50 }
  }
]

for (const { title, status, isCharged, route, options, method = 'GET' } of cases) {
  t.test(`${isCharged ? 'charges' : 'does not charge'} ${title}`, async t => {
    const app = await metered(t, db, app => void app.get('/work', { config: { quota: 'calls' }, ...options }, route))
    const user = newUser()
    const response = await ask(app, user, '/work', method)
    t.equal(response.statusCode, status)
    t.equal((await logsOf(db, user)).length, isCharged ? 1 : 0)
    t.equal(await usedBy(db, user), isCharged ? 1 : 0)
  })
}

t.test('charges the same replies when the reply does not wait for the log row', async t => {
  for (const { status, isCharged, route, options, method = 'GET' } of cases) {
    const app = await metered(t, db, app => void app.get('/work', { config: { quota: 'calls' }, ...options }, route), {
      settle: 'after-reply'
    })
    const user = newUser()
    t.equal((await ask(app, user, '/work', method)).statusCode, status)
    t.equal((await logsOf(db, user)).length, isCharged ? 1 : 0)
    t.equal(await usedBy(db, user), isCharged ? 1 : 0)
  }
})

t.test('charges a 304 if the charge function says so', async t => {
  const app = await metered(t, db, app => {
    app.get('/cached', { config: { quota: { type: 'calls', charge: status => status === 304 } } }, async (_, reply) =>
      reply.code(304).send()
    )
  })
  const user = newUser()
  await ask(app, user, '/cached')
  t.equal((await logsOf(db, user)).length, 1)
})

t.test('charges only 2xx, the default, if the charge function throws', async t => {
  const charge = () => {
    throw new Error('planted')
  }
  const app = await metered(t, db, app => {
    app.get('/ok', { config: { quota: { type: 'calls', charge } } }, async () => 'x')
    app.get('/not', { config: { quota: { type: 'calls', charge } } }, async (_, reply) => reply.code(404).send('x'))
  })
  const user = newUser()
  t.equal((await ask(app, user, '/ok')).statusCode, 200)
  t.equal((await ask(app, user, '/not')).statusCode, 404)
  t.match(await logsOf(db, user), [{ endpoint: '/ok' }])
})

t.test('neither identifies nor charges a request that matches no route', async t => {
  const app = await metered(t, db, app => void app.get('/*', { config: { quota: false } }, async () => 'x'))
  const user = newUser()
  t.equal((await app.inject({ method: 'POST', url: '/nowhere' })).statusCode, 404)
  t.equal((await ask(app, user, '/nowhere', 'POST')).statusCode, 404)
  t.same(await logsOf(db, user), [])
})

t.test("charges another library's ReadableStream and Response like the native ones", async t => {
  class OtherStream {
    readonly #inner: ReadableStream
    constructor(inner: ReadableStream) {
      this.#inner = inner
    }
    getReader() {
      return this.#inner.getReader()
    }
  }
  const app = await metered(t, db, app => {
    app.get('/stream', { config: { quota: 'calls' } }, async (request, reply) => {
      const inner = new ReadableStream({
        async pull(controller) {
          await new Promise(resolve => setTimeout(resolve, 20))
          request.quota.setAmount('calls', 7)
          controller.enqueue(new TextEncoder().encode('a'))
          controller.close()
        }
      })
      return reply.send(new OtherStream(inner))
    })
    app.get('/response', { config: { quota: 'calls' } }, async () => ({
      [Symbol.toStringTag]: 'Response',
      status: 500,
      headers: new Headers(),
      body: new Response('bad').body,
      bodyUsed: false
    }))
  })
  const user = newUser()
  t.equal((await ask(app, user, '/stream')).body, 'a')
  t.match(await logsOf(db, user), [{ amount: 7 }])
  const other = newUser()
  const reply = await ask(app, other, '/response')
  t.equal(reply.statusCode, 500)
  t.equal(reply.headers['x-quota-cost'], '0')
  t.strictSame(await logsOf(db, other), [])
})

t.test('logs metadata that identify set before the reservation', async t => {
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/work', { config: { quota: 'calls' } }, async request => {
        request.quota.metadata.handler = true
        return 'x'
      }),
    {
      identify: request => {
        request.quota.metadata = { plan: 'gold' }
        return request.headers['x-user'] as string
      }
    }
  )
  const user = newUser()
  await ask(app, user, '/work')
  t.match(await logsOf(db, user), [{ metadata: { plan: 'gold', handler: true } }])
})

t.test('calls a charge function once per reply, and charges by default if it does not return a boolean', async t => {
  let asked = 0
  const once = () => {
    asked += 1
    return asked % 2 === 1
  }
  const rules: Record<string, unknown> = {
    '/once': once,
    '/async': async () => false,
    '/rejects': async () => {
      throw new Error('planted')
    },
    '/nothing': () => undefined
  }
  const app = await metered(t, db, app => {
    for (const [url, charge] of Object.entries(rules))
      app.get(url, { config: { quota: { type: 'calls', charge: charge as () => boolean } } }, async () => 'x')
  })
  for (const url of Object.keys(rules)) {
    const user = newUser()
    const { headers } = await ask(app, user, url)
    t.equal(headers['x-quota-cost'], '1', url)
    t.equal((await logsOf(db, user)).length, 1, url)
  }
  t.equal(asked, 1)
})

t.test('charges a web Response without a body before it is sent', async t => {
  const user = newUser()
  let rows = -1
  const app = await metered(t, db, app => {
    const onSend = async () => {
      const [row] = await db.query<{ n: number }>('SELECT count(*)::int AS n FROM usage_logs WHERE user_id = $1', [
        user
      ])
      rows = row?.n ?? -1
    }
    app.get('/empty', { config: { quota: 'calls' }, onSend }, async () => new Response(null, { status: 204 }))
  })
  t.equal((await ask(app, user, '/empty')).statusCode, 204)
  t.equal(rows, 1)
})
