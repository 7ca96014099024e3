import { once } from 'node:events'
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import quotaPlugin, { type QuotaOptions } from '../../src/index.ts'
import { embedded } from '../fixtures/database.ts'
import { byHeader, logsOf, newUser, onEmbedded, QUOTAS, settled, usedBy } from '../fixtures/metered.ts'

const db = await embedded(t)

/** A listening HTTP/2 application with one route; returns a client connected to it. */
async function listening(t: Test, handler: () => unknown, options: QuotaOptions = {}) {
  const app = Fastify({ http2: true })
  t.teardown(() => app.close())
  await (app as unknown as FastifyInstance).register(quotaPlugin, {
    ...onEmbedded(db),
    quotas: QUOTAS,
    identify: byHeader,
    ...options
  })
  app.get('/', { config: { quota: 'calls' } }, async () => handler())
  const session = connect(await app.listen({ port: 0, host: '127.0.0.1' }))
  t.teardown(() => session.destroy())
  return session
}

function send(session: ClientHttp2Session, user: string): ClientHttp2Stream {
  const stream = session.request({ ':path': '/', 'x-user': user })
  stream.on('error', () => {})
  return stream
}

async function statusOf(stream: ClientHttp2Stream): Promise<number> {
  const [headers] = await once(stream, 'response')
  await once(stream.resume(), 'close')
  return headers[':status']
}

for (const settle of ['before-reply', 'after-reply'] as const) {
  t.test(`charges a 200 over HTTP/2, and does not charge a 500 (${settle})`, async t => {
    let answer = () => 'x'
    const session = await listening(t, () => answer(), { settle })
    const user = newUser()
    t.equal(await statusOf(send(session, user)), 200)
    t.equal((await logsOf(db, user)).length, 1)
    answer = () => {
      throw new Error('planted')
    }
    t.equal(await statusOf(send(session, user)), 500)
    t.equal((await logsOf(db, user)).length, 1)
    t.equal(await usedBy(db, user), 1)
  })
}

t.test('charges a hijacked HTTP/2 reply by the status that was sent on its stream', async t => {
  for (const [status, rows] of [
    [500, 0],
    [201, 1]
  ] as const) {
    const app = Fastify({ http2: true })
    t.teardown(() => app.close())
    await (app as unknown as FastifyInstance).register(quotaPlugin, { ...onEmbedded(db), identify: byHeader })
    app.get('/', { config: { quota: 'calls' } }, (_, reply) => {
      const { stream } = reply.hijack().raw as unknown as { stream: import('node:http2').ServerHttp2Stream }
      stream.respond({ ':status': status })
      stream.end('x')
    })
    const session = connect(await app.listen({ port: 0, host: '127.0.0.1' }))
    t.teardown(() => session.destroy())
    const user = newUser()
    t.equal(await statusOf(send(session, user)), status)
    t.equal((await logsOf(db, user)).length, rows)
    t.equal(await usedBy(db, user), rows)
  }
})

t.test('gives back what is reserved for a handler that never replies, once its HTTP/2 client has left', async t => {
  let arrived = () => {}
  const arrival = new Promise<void>(resolve => {
    arrived = resolve
  })
  const never = () => {
    arrived()
    return new Promise(() => {})
  }
  const session = await listening(t, never, { reservationTtlMs: 300 })
  const user = newUser()
  const stream = send(session, user)
  await arrival
  t.equal(await usedBy(db, user), 1)
  stream.close()
  await settled(db, user)
  t.equal(await usedBy(db, user), 0)
})

t.test(
  'gives back what is reserved for a handler that never replies, even if its HTTP/2 client left before the reservation',
  async t => {
    let goOn = () => {}
    let asked = () => {}
    const isAsked = new Promise<void>(resolve => {
      asked = resolve
    })
    const user = newUser()
    const identify = async () => {
      await new Promise<void>(resolve => {
        goOn = resolve
        asked()
      })
      return user
    }
    let handled = () => {}
    const isHandled = new Promise<void>(resolve => {
      handled = resolve
    })
    const never = () => {
      handled()
      return new Promise(() => {})
    }
    const session = await listening(t, never, { identify, reservationTtlMs: 300 })
    const stream = send(session, user)
    await isAsked
    stream.close()
    await once(stream, 'close')
    await sleep(50)
    goOn()
    await isHandled
    await settled(db, user)
    t.equal(await usedBy(db, user), 0)
  }
)
