import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { embedded } from '../fixtures/database.ts'
import { ask, logsOf, metered, newUser, usedBy } from '../fixtures/metered.ts'

const db = await embedded(t)
const seconds = (iso: string) => Math.ceil(Date.parse(iso) / 1000)

t.test('sends the quota headers on charged, released and denied replies alike', async t => {
  const app = await metered(t, db, app => {
    app.get('/ok', { config: { quota: { type: 'calls', amount: 4 } } }, async () => 'x')
    app.get('/fails', { config: { quota: { type: 'calls', amount: 4 } } }, async (_, reply) =>
      reply.code(500).send('x')
    )
    app.get('/too-much', { config: { quota: { type: 'calls', amount: 7 } } }, async () => 'x')
  })
  const user = newUser()
  const expected = (used: number, cost: number) => ({
    'x-quota-type': 'calls',
    'x-quota-limit': '10',
    'x-quota-used': String(used),
    'x-quota-remaining': String(10 - used),
    'x-quota-cost': String(cost),
    'x-quota-reset': /^\d{10}$/,
    'ratelimit-policy': /^"calls";q=10;w=\d+$/,
    ratelimit: new RegExp(`^"calls";r=${10 - used};t=\\d+$`)
  })
  t.match((await ask(app, user, '/ok')).headers, expected(4, 4))
  t.match((await ask(app, user, '/fails')).headers, expected(4, 0))
  t.match((await ask(app, user, '/too-much')).headers, expected(4, 0))
})

t.test('gives the reset as Unix seconds, and the window in seconds', async t => {
  const app = await metered(t, db, app => void app.get('/day', { config: { quota: 'tokens' } }, async () => 'x'))
  const user = newUser()
  const { headers } = await ask(app, user, '/day')
  const [quota] = (await app.inject({ url: '/quotas/me', headers: { 'x-user': user } }))
    .json()
    .quotas.filter((q: { type_key: string }) => q.type_key === 'tokens')
  t.equal(headers['x-quota-reset'], String(seconds(quota.resets_at)))
  t.equal(headers['ratelimit-policy'], '"tokens";q=1000;w=86400')
})

t.test('the X-Quota headers describe the tightest charge, and RateLimit lists every limited one', async t => {
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/both', { config: { quota: [{ type: 'tokens', amount: 990 }, 'calls', 'free'] } }, async () => 'x')
  )
  const { headers } = await ask(app, newUser(), '/both')
  t.match(headers, { 'x-quota-type': 'tokens', 'x-quota-cost': '990' })
  t.match(headers.ratelimit, /^"tokens";r=10;t=\d+, "calls";r=9;t=\d+$/)
})

t.test(
  'on a denial, the X-Quota headers describe the type that was denied, and RateLimit lists every requested one',
  async t => {
    const app = await metered(
      t,
      db,
      app =>
        void app.get(
          '/both',
          {
            config: {
              quota: [
                { type: 'tokens', amount: 1001 },
                { type: 'calls', amount: 0 }
              ]
            }
          },
          async () => 'x'
        )
    )
    const user = newUser()
    await app.quota.consume(user, 'calls', 9)
    const { statusCode, headers } = await ask(app, user, '/both')
    t.equal(statusCode, 402)
    t.match(headers, { 'x-quota-type': 'tokens', 'x-quota-remaining': '1000', 'x-quota-cost': '0' })
    t.match(headers.ratelimit, /^"tokens";r=1000;t=\d+, "calls";r=1;t=\d+$/)
  }
)

t.test('omits the reset and the window for a type that never resets', async t => {
  const app = await metered(
    t,
    db,
    app => void app.get('/disk', { config: { quota: { type: 'disk', amount: 5 } } }, async () => 'x'),
    { quotas: { disk: { limit: 50, kind: 'level' } } }
  )
  const { headers } = await ask(app, newUser(), '/disk')
  t.equal(headers['x-quota-reset'], undefined)
  t.match(headers, { 'ratelimit-policy': '"disk";q=50', ratelimit: '"disk";r=45' })
})

t.test('says that a period which ended while the handler ran ends in 0 seconds', async t => {
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/slow', { config: { quota: 'calls' } }, async () => {
        await sleep(2_200)
        return 'x'
      })
  )
  const user = newUser()
  await app.quota.consume(user, 'calls', 0)
  await db.query("UPDATE quota_limits SET period_end = now() + interval '1 second' WHERE user_id = $1", [user])
  const { statusCode, headers } = await ask(app, user, '/slow')
  t.equal(statusCode, 200)
  t.match(headers, { 'x-quota-cost': '1', ratelimit: '"calls";r=9;t=0' })
})

t.test(
  'caps what RateLimit-Policy and RateLimit say at 15 digits, the most that a structured field allows (RFC 9651)',
  async t => {
    const app = await metered(t, db, app => void app.get('/huge', { config: { quota: 'huge' } }, async () => 'x'), {
      quotas: { huge: { limit: Number.MAX_SAFE_INTEGER } }
    })
    t.match((await ask(app, newUser(), '/huge')).headers, {
      'x-quota-limit': '9007199254740991',
      'ratelimit-policy': /q=999999999999999;/,
      ratelimit: /r=999999999999999;/
    })
  }
)

t.test('sends the balance after the charge even if the reply does not wait for the log row', async t => {
  const app = await metered(
    t,
    db,
    app => {
      const config = { quota: { type: 'calls', amount: 4 } }
      app.get('/ok', { config }, async () => 'x')
      app.get('/less', { config }, async request => {
        request.quota.setAmount('calls', 1)
        return 'x'
      })
    },
    { settle: 'after-reply' }
  )
  for (const [url, cost] of [
    ['/ok', 4],
    ['/less', 1]
  ] as const)
    t.match((await ask(app, newUser(), url)).headers, {
      'x-quota-used': String(cost),
      'x-quota-remaining': String(10 - cost),
      'x-quota-cost': String(cost)
    })
})

t.test('what other requests hold does not remain, whether the reply costs less than was held or nothing', async t => {
  let held = () => {}
  const isHeld = new Promise<void>(resolve => {
    held = resolve
  })
  let end = () => {}
  const isOver = new Promise<void>(resolve => {
    end = resolve
  })
  const app = await metered(t, db, app => {
    app.get('/long', { config: { quota: { type: 'calls', amount: 3 } } }, async () => {
      held()
      await isOver
      return 'x'
    })
    app.get('/less', { config: { quota: { type: 'calls', amount: 4 } } }, async request => {
      request.quota.setAmount('calls', 1)
      return 'x'
    })
    app.get('/fails', { config: { quota: { type: 'calls', amount: 4 } } }, (_, reply) => reply.code(404).send('x'))
  })
  const user = newUser()
  const long = ask(app, user, '/long')
  await isHeld
  t.match((await ask(app, user, '/less')).headers, { 'x-quota-used': '1', 'x-quota-remaining': '6' })
  t.match((await ask(app, user, '/fails')).headers, { 'x-quota-used': '1', 'x-quota-remaining': '6' })
  end()
  t.match((await long).headers, { 'x-quota-used': '4', 'x-quota-remaining': '6' })
})

t.test('headers and charge follow the status that is sent, even if a later hook changed it', async t => {
  for (const settle of ['before-reply', 'after-reply'] as const) {
    const turn = (code: number) => async (_: unknown, reply: { code(n: number): void }, payload: unknown) => {
      reply.code(code)
      return payload
    }
    const app = await metered(
      t,
      db,
      app => {
        const config = { quota: { type: 'calls', amount: 4 } }
        app.get('/fails-late', { config, onSend: turn(502) }, async () => 'x')
        app.get('/mended-late', { config, onSend: turn(200) }, async (_, reply) => reply.code(500).send('x'))
      },
      { settle }
    )
    const user = newUser()
    const failed = await ask(app, user, '/fails-late')
    t.match(failed.headers, { 'x-quota-used': '0', 'x-quota-remaining': '10', 'x-quota-cost': '0', ratelimit: /r=10;/ })
    const mended = await ask(app, user, '/mended-late')
    t.match(mended.headers, { 'x-quota-used': '4', 'x-quota-remaining': '6', 'x-quota-cost': '4', ratelimit: /r=6;/ })
    // What was already given back is charged after the reply.
    while ((await usedBy(db, user)) === 0) await sleep(5)
    t.match(await logsOf(db, user), [{ amount: 4, endpoint: '/mended-late' }])
    t.equal(await usedBy(db, user), 4)
  }
})

t.test('headers and charge of a stream follow the status that is sent, even if a later hook changed it', async t => {
  const to = (status: number) => ({
    config: { quota: 'calls' },
    onSend: async (_: FastifyRequest, reply: FastifyReply, body: unknown) => {
      reply.code(status)
      return body
    }
  })
  const app = await metered(t, db, app => {
    app.get('/down', to(502), async (_, reply) => reply.send(Readable.from(['a'])))
    app.get('/up', to(200), async (_, reply) => reply.code(500).send(Readable.from(['a'])))
  })
  for (const [url, status, cost] of [
    ['/down', 502, 0],
    ['/up', 200, 1]
  ] as const) {
    const user = newUser()
    const reply = await ask(app, user, url)
    t.equal(reply.statusCode, status)
    t.match(reply.headers, {
      'x-quota-cost': String(cost),
      'x-quota-used': String(cost),
      'x-quota-remaining': String(10 - cost)
    })
    for (let i = 0; i < 100 && (await usedBy(db, user)) !== cost; i++) await sleep(10)
    t.equal((await logsOf(db, user)).length, cost)
  }
})

t.test('the 500 after a header that Node refuses has the quota headers, and charges nothing', async t => {
  for (const settle of ['before-reply', 'after-reply'] as const) {
    const app = await metered(
      t,
      db,
      app => {
        const config = { quota: { type: 'calls', amount: 4 } }
        app.get('/text', { config }, async (_, reply) => reply.header('x-bad', 'a\r\nb').send('x'))
        app.get('/stream', { config }, async (_, reply) => reply.header('x-bad', 'a\r\nb').send(Readable.from(['x'])))
        app.get('/web', { config }, async (_, reply) => reply.header('x-bad', 'a\r\nb').send(new Response('x')))
        const onSend = async (_: FastifyRequest, reply: FastifyReply) => void reply.header('x-bad', 'a\r\nb')
        app.get('/late', { config, onSend }, async (_, reply) => reply.send(Readable.from(['x'])))
      },
      { settle }
    )
    for (const url of ['/text', '/stream', '/web', '/late']) {
      const user = newUser()
      const { statusCode, headers } = await ask(app, user, url)
      t.equal(statusCode, 500)
      const expected = {
        'x-quota-type': 'calls',
        'x-quota-cost': '0',
        'x-quota-used': '0',
        ratelimit: /^"calls";r=10;/
      }
      t.match(headers, expected, `${url}, ${settle}`)
      t.strictSame(await logsOf(db, user), [])
    }
  }
})

t.test(
  'the 500 after a web Response whose later onSend hook fails shows what is given back, not the charge',
  async t => {
    for (const settle of ['before-reply', 'after-reply'] as const) {
      const onSend = async (_: FastifyRequest, __: FastifyReply, payload: unknown) => {
        if (payload instanceof Response) throw new Error('planted')
        return payload
      }
      const app = await metered(
        t,
        db,
        app => {
          const config = { quota: { type: 'calls', amount: 4 } }
          app.get('/full', { config, onSend }, async () => new Response('x'))
          app.get('/empty', { config, onSend }, async () => new Response(null, { status: 204 }))
        },
        { settle }
      )
      for (const url of ['/full', '/empty']) {
        const user = newUser()
        const { statusCode, headers } = await ask(app, user, url)
        t.equal(statusCode, 500)
        t.match(headers, { 'x-quota-cost': '0', 'x-quota-used': '0', ratelimit: /r=10;/ }, `${url}, ${settle}`)
        t.strictSame(await logsOf(db, user), [])
      }
    }
  }
)

t.test('headers and charge of a hijacked reply follow its status', async t => {
  const app = await metered(t, db, app => {
    const config = { quota: 'calls' }
    app.get('/head', { config }, (_, reply) => void reply.hijack().raw.writeHead(201, { 'x-own': 'y' }).end('x'))
    app.get('/list', { config }, (_, reply) => void reply.hijack().raw.writeHead(200, ['x-own', 'y']).end('x'))
    app.get('/none', { config }, (_, reply) => void reply.hijack().raw.setHeader('x-own', 'y').end('x'))
    app.get(
      '/failed',
      { config },
      (_, reply) => void reply.hijack().raw.writeHead(500, 'No', { 'x-own': 'y' }).end('x')
    )
  })
  for (const [url, cost] of [
    ['/head', 1],
    ['/list', 1],
    ['/none', 1],
    ['/failed', 0]
  ] as const) {
    const user = newUser()
    const { headers } = await ask(app, user, url)
    t.match(headers, { 'x-own': 'y', 'x-quota-cost': String(cost), 'x-quota-remaining': String(10 - cost) }, url)
    t.equal((await logsOf(db, user)).length, cost)
  }
})

t.test('charges both routes of a request that is routed once more, and sends the headers of the last', async t => {
  const app = await metered(t, db, app => {
    app.get('/first', { config: { quota: 'calls' } }, (request, reply) => {
      reply.hijack()
      request.raw.url = '/second'
      app.routing(request.raw, reply.raw)
    })
    app.get('/second', { config: { quota: { type: 'tokens', amount: 7 } } }, async () => 'x')
  })
  const user = newUser()
  const { statusCode, headers } = await ask(app, user, '/first')
  t.equal(statusCode, 200)
  t.match(headers, { 'x-quota-type': 'tokens', 'x-quota-cost': '7', 'x-quota-remaining': '993' })
  const rows = await logsOf(db, user)
  t.strictSame(rows.map(({ type, amount }) => [type, amount]).sort(), [
    ['calls', 1],
    ['tokens', 7]
  ])
})

t.test(
  'drops X-Quota-Reset when a changed status makes the X-Quota headers describe a type that never resets',
  async t => {
    const quota = [
      { type: 'calls', amount: 9 },
      { type: 'disk', amount: 1 }
    ]
    const onSend = async (_: FastifyRequest, reply: FastifyReply, body: unknown) => {
      reply.code(502)
      return body
    }
    const app = await metered(
      t,
      db,
      app => {
        app.get('/text', { config: { quota }, onSend }, async () => 'x')
        app.get('/stream', { config: { quota }, onSend }, async (_, reply) => reply.send(Readable.from(['x'])))
      },
      { quotas: { calls: { limit: 10 }, disk: { limit: 4, kind: 'level', unit: 'byte' } } }
    )
    for (const url of ['/text', '/stream']) {
      const user = newUser()
      await app.quota.setUsage(user, 'disk', 2)
      const reply = await ask(app, user, url)
      t.equal(reply.statusCode, 502)
      t.match(reply.headers, { 'x-quota-type': 'disk' })
      t.equal(reply.headers['x-quota-reset'], undefined, url)
    }
  }
)

t.test('the quota headers are never those of another service whose reply a handler passes on', async t => {
  const theirs = {
    'x-quota-type': 'theirs',
    'x-quota-limit': '5',
    'x-quota-used': '2',
    'x-quota-remaining': '3',
    'x-quota-cost': '99',
    'x-quota-reset': '1',
    ratelimit: '"theirs";r=3;t=9',
    'ratelimit-policy': '"theirs";q=5;w=10'
  }
  const ways: Record<string, (status: number, reply: FastifyReply) => unknown> = {
    text: (status, reply) => reply.code(status).headers(theirs).send('x'),
    stream: (status, reply) =>
      reply
        .code(status)
        .headers(theirs)
        .send(Readable.from(['x'])),
    web: status => new Response('x', { status, headers: theirs }),
    empty: status => new Response(null, { status, headers: theirs })
  }
  const disk = { limit: 50, kind: 'level' } as const
  for (const settle of ['before-reply', 'after-reply'] as const) {
    const app = await metered(
      t,
      db,
      app => {
        for (const type of ['calls', 'disk', 'free'])
          for (const status of [200, 502]) {
            const config = { quota: { type, amount: 2 } }
            app.get(`/own/${type}/${status}`, { config }, async (_, reply) => reply.code(status).send('x'))
            for (const [way, pass] of Object.entries(ways))
              app.get(`/${way}/${type}/${status}`, { config }, async (_, reply) => pass(status, reply))
          }
      },
      { settle, quotas: { calls: { limit: 10 }, disk, free: { limit: -1 } } }
    )
    const said = async (url: string) => {
      const { headers } = await ask(app, newUser(), url)
      const ours = Object.entries(headers).filter(([name]) => name in theirs)
      return Object.fromEntries(ours.map(([name, value]) => [name, String(value).replace(/;t=\d+/, '')]))
    }
    for (const way of Object.keys(ways))
      for (const reply of ['calls/200', 'calls/502', 'disk/200', 'disk/502', 'free/200', 'free/502'])
        t.strictSame(await said(`/${way}/${reply}`), await said(`/own/${reply}`), `/${way}/${reply}, ${settle}`)
  }
})

t.test('counts the seconds until the reset from the reply, not from the admission', async t => {
  const app = await metered(t, db, app => {
    app.get('/slow', { config: { quota: 'tokens' } }, () => new Promise(resolve => setTimeout(resolve, 2100, 'x')))
  })
  const { headers } = await ask(app, newUser(), '/slow')
  const left = Number(headers['x-quota-reset']) - Date.now() / 1000
  const [, told] = /;t=(\d+)$/.exec(headers.ratelimit as string) as unknown as [string, string]
  t.ok(Number(told) >= left && Number(told) < left + 2, `${told} of ${left}`)
})
