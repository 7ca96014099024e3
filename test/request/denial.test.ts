import type { FastifyInstance, FastifyRequest } from 'fastify'
import t from 'tap'
import { embedded } from '../fixtures/database.ts'
import { ask, logsOf, metered, newUser, usedBy } from '../fixtures/metered.ts'

const db = await embedded(t)

t.test('answers 402 with problem details when the amount does not fit, and does not run the handler', async t => {
  let runs = 0
  const app = await metered(
    t,
    db,
    app => void app.get('/work', { config: { quota: { type: 'calls', amount: 6 } } }, async () => ++runs)
  )
  const user = newUser()
  t.equal((await ask(app, user, '/work')).statusCode, 200)
  const denied = await ask(app, user, '/work')
  t.equal(denied.statusCode, 402)
  t.match(denied.headers['content-type'], /^application\/problem\+json/)
  t.match(denied.json(), {
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    title: String,
    status: 402,
    detail: String,
    'violated-policies': ['calls'],
    quota_type: 'calls',
    limit: 10,
    used: 6,
    remaining: 4,
    required: 6,
    resets_at: /^\d{4}-\d{2}-01T00:00:00.000Z$/,
    upgrade_url: '/subscription'
  })
  t.equal(runs, 1)
  t.equal(await usedBy(db, user), 6)
})

t.test('sends Retry-After only when the amount would fit into a new period', async t => {
  const app = await metered(
    t,
    db,
    app => {
      app.get('/fits', { config: { quota: { type: 'tokens', amount: 600 } } }, async () => 'x')
      app.get('/never-fits', { config: { quota: { type: 'tokens', amount: 1001 } } }, async () => 'x')
      app.get('/level', { config: { quota: { type: 'disk', amount: 11 } } }, async () => 'x')
    },
    {
      quotas: {
        tokens: { limit: 1000, period: 'day', unit: 'token' },
        disk: { limit: 10, kind: 'level', unit: 'byte' }
      }
    }
  )
  const user = newUser()
  await ask(app, user, '/fits')
  const waiting = await ask(app, user, '/fits')
  t.match(waiting.headers['retry-after'], /^[1-9]\d{0,4}$/)
  t.equal((await ask(app, user, '/never-fits')).headers['retry-after'], undefined)
  const full = await ask(app, user, '/level')
  t.equal(full.headers['retry-after'], undefined)
  t.equal(full.headers['x-quota-reset'], undefined)
  t.equal(full.json().resets_at, null)
})

t.test('charges several types together or none of them', async t => {
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/both', { config: { quota: ['calls', { type: 'tokens', amount: 400 }, 'free'] } }, async () => 'x')
  )
  const user = newUser()
  await ask(app, user, '/both')
  await ask(app, user, '/both')
  const denied = await ask(app, user, '/both')
  t.equal(denied.statusCode, 402)
  t.same(denied.json()['violated-policies'], ['tokens'])
  t.equal(await usedBy(db, user, 'calls'), 2)
  t.equal(await usedBy(db, user, 'tokens'), 800)
  t.equal((await logsOf(db, user)).length, 6)
})

t.test('names every violated policy', async t => {
  const app = await metered(
    t,
    db,
    app =>
      void app.get(
        '/both',
        { config: { quota: [{ type: 'calls', amount: 11 }, { type: 'tokens', amount: 1001 }, 'free'] } },
        async () => 'x'
      )
  )
  t.same((await ask(app, newUser(), '/both')).json()['violated-policies'], ['calls', 'tokens'])
})

t.test(
  'takes denial settings from the route or rule first, then from the quota type, then from the plugin',
  async t => {
    const app = await metered(
      t,
      db,
      app => {
        app.get('/route', { config: { quota: { type: 'typed', denial: { statusCode: 403 } } } }, async () => 'x')
        app.get('/type', { config: { quota: 'typed' } }, async () => 'x')
        app.get('/plugin', { config: { quota: 'plain' } }, async () => 'x')
        app.get('/rule', async () => 'x')
      },
      {
        quotas: { typed: { limit: 0, denial: { statusCode: 429, upgradeUrl: null } }, plain: { limit: 0 } },
        rules: [{ url: '/rule', quota: 'typed', denial: { upgradeUrl: '/more' } }],
        denial: { statusCode: 418, upgradeUrl: '/plans' }
      }
    )
    const answers = await Promise.all(['/route', '/type', '/plugin', '/rule'].map(url => ask(app, newUser(), url)))
    t.same(
      answers.map(a => a.statusCode),
      [403, 429, 418, 429]
    )
    t.same(
      answers.map(a => a.json().upgrade_url),
      [undefined, undefined, '/plans', '/more']
    )
  }
)

t.test('lets an unlimited type through, and still counts it', async t => {
  const app = await metered(t, db, app => void app.get('/free', { config: { quota: 'free' } }, async () => 'x'))
  const user = newUser()
  const response = await ask(app, user, '/free')
  t.match(response.headers, { 'x-quota-limit': '-1', 'x-quota-remaining': '-1', 'x-quota-used': '1' })
  t.equal(response.headers.ratelimit, undefined)
  t.equal((await logsOf(db, user)).length, 1)
})

t.test('charges the amount that an asynchronous function returns, even 0', async t => {
  const app = await metered(
    t,
    db,
    app =>
      void app.get(
        '/work',
        { config: { quota: { type: 'calls', amount: async request => Number((request.query as { n: string }).n) } } },
        async () => 'x'
      )
  )
  const user = newUser()
  await ask(app, user, '/work?n=3')
  await ask(app, user, '/work?n=0')
  t.same(
    (await logsOf(db, user)).map(log => log.amount),
    [3, 0]
  )
})

for (const [n, what] of [
  ['-1', 'returns a negative amount'],
  ['1.5', 'returns a fraction'],
  ['x', 'returns NaN'],
  ['9007199254740992', 'returns more than 2^53−1'],
  ['query', 'returns an object without a prototype'],
  ['throw', 'throws']
]) {
  t.test(`answers 500 and charges nothing when an amount function ${what}`, async t => {
    let runs = 0
    const amount = (request: { query: unknown }) => {
      const { n } = request.query as { n: string }
      if (n === 'throw') throw new Error('planted')
      if (n === 'query') return Object.create(null)
      return Number(n)
    }
    const app = await metered(
      t,
      db,
      app => void app.get('/work', { config: { quota: { type: 'calls', amount } } }, async () => ++runs)
    )
    const user = newUser()
    const response = await ask(app, user, `/work?n=${n}`)
    t.equal(response.statusCode, 500)
    t.equal(response.json().code, 'FST_QUOTA_AMOUNT_FUNCTION')
    t.equal(runs, 0)
    t.equal(await usedBy(db, user), 0)
  })
}

t.test("answers with the status of an amount function's error, if it has one", async t => {
  const amount = () => {
    throw Object.assign(new Error('too large'), { statusCode: 413 })
  }
  const app = await metered(
    t,
    db,
    app => void app.get('/work', { config: { quota: { type: 'calls', amount } } }, async () => 'done')
  )
  const user = newUser()
  const response = await ask(app, user, '/work')
  t.match(response.json(), { statusCode: 413, message: 'too large' })
  t.equal(await usedBy(db, user), 0)
})

t.test('charges an amount set above the reservation in full, even past the limit, and the log row says so', async t => {
  const app = await metered(
    t,
    db,
    app =>
      void app.get('/work', { config: { quota: { type: 'calls', amount: 2 } } }, async request => {
        request.quota.metadata = { job: 7 }
        request.quota.setAmount('calls', 25)
        return request.quota.charges.map(({ type, reserved, amount }) => ({ type, reserved, amount }))
      })
  )
  const user = newUser()
  const response = await ask(app, user, '/work')
  t.same(response.json(), [{ type: 'calls', reserved: 2, amount: 25 }])
  t.match(response.headers, { 'x-quota-used': '25', 'x-quota-remaining': '0', 'x-quota-cost': '25' })
  t.match(await logsOf(db, user), [{ amount: 25, metadata: { job: 7, over_reservation: 23 } }])
})

t.test('setAmount throws if the counter would pass 2^53−1, and accepts an amount that just reaches it', async t => {
  const most = Number.MAX_SAFE_INTEGER
  const app = await metered(t, db, app => {
    app.get('/work', { config: { quota: ['calls', { type: 'free', amount: 2 }] } }, async request => {
      t.throws(() => request.quota.setAmount('free', most - 4), {
        code: 'FST_QUOTA_INVALID_AMOUNT',
        message: 'is 9007199254740987, of which the counter has room for 9007199254740986.'
      })
      request.quota.setAmount('free', most - 5)
      return 'x'
    })
  })
  const user = newUser()
  await app.quota.consume(user, 'free', 5)
  t.equal((await ask(app, user, '/work')).statusCode, 200)
  t.strictSame([await usedBy(db, user, 'free'), await usedBy(db, user)], [most, 1])
  t.equal(app.quota.counts().pending, 0)
})

t.test('charges even if the metadata cannot be read', async t => {
  const app = await metered(t, db, app => {
    app.get('/work', { config: { quota: 'calls' } }, async request => {
      request.quota.metadata = Object.defineProperty({}, 'job', {
        enumerable: true,
        get: () => {
          throw new Error('planted')
        }
      })
      request.quota.setAmount('calls', 3)
      return 'x'
    })
  })
  const user = newUser()
  t.equal((await ask(app, user, '/work')).statusCode, 200)
  t.match(await logsOf(db, user), [{ amount: 3, metadata: { truncated: true, over_reservation: 2 } }])
})

t.test('setAmount throws on an invalid amount, and on a type that the route does not charge', async t => {
  const app = await metered(t, db, app => {
    app.get('/work', { config: { quota: 'calls' } }, async request => {
      for (const amount of [1.5, Object.create(null)])
        t.throws(() => request.quota.setAmount('calls', amount), { code: 'FST_QUOTA_INVALID_AMOUNT' })
      t.throws(() => request.quota.setAmount('tokens', 1), { code: 'FST_QUOTA_NOT_RESERVED' })
      return 'x'
    })
    app.get('/unmetered', async request => {
      t.throws(() => request.quota.setAmount('calls', 1), { code: 'FST_QUOTA_NOT_RESERVED' })
      return request.quota.charges
    })
  })
  t.equal((await ask(app, newUser(), '/work')).statusCode, 200)
  t.same((await ask(app, newUser(), '/unmetered')).json(), [])
})

t.test('sends the whole denial even if the route has a response schema for 4xx', async t => {
  const schema = { response: { '4xx': { type: 'object', properties: { message: { type: 'string' } } } } }
  const app = await metered(
    t,
    db,
    app => void app.get('/work', { config: { quota: { type: 'calls', amount: 11 } }, schema }, async () => 'x')
  )
  t.match((await ask(app, newUser(), '/work')).json(), { status: 402, quota_type: 'calls', required: 11 })
})

t.test('does not meter a type that was switched off before the application started', async t => {
  const routes = (app: FastifyInstance) => {
    const handler = async (request: FastifyRequest) => {
      request.quota.setAmount('paused', 5)
      return request.quota.charges.map(charge => charge.type)
    }
    app.get('/alone', { config: { quota: 'paused' } }, handler)
    app.get('/beside', { config: { quota: ['calls', 'paused'] } }, handler)
  }
  const app = await metered(t, db, routes, { quotas: { calls: { limit: 10 }, paused: { limit: 0 } } })
  await db.query("UPDATE quota_types SET is_active = false WHERE type_key = 'paused'")
  const later = await metered(t, db, routes)
  t.strictSame((await ask(later, newUser(), '/alone')).json(), [])
  t.strictSame((await ask(later, newUser(), '/beside')).json(), ['calls'])
  t.equal(
    (await ask(app, newUser(), '/alone')).statusCode,
    402,
    'an application that was already running has not read the change yet'
  )
})
