import { readFile } from 'node:fs/promises'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import t from 'tap'
import quotaPlugin, { type QuotaOptions } from '../../src/index.ts'
import { embedded } from '../fixtures/database.ts'
import { ask, byHeader, logsOf, metered, newUser, onEmbedded, QUOTAS } from '../fixtures/metered.ts'

const db = await embedded(t)
const options = (more: QuotaOptions = {}): QuotaOptions => ({
  ...onEmbedded(db),
  quotas: QUOTAS,
  identify: byHeader,
  ...more
})
const work = { config: { quota: 'calls' } }
type Rules = QuotaOptions['rules']

/** Asserts that each of these URLs answers 200 and leaves one log row. */
async function charges(t: import('tap').Test, app: FastifyInstance, urls: string[]) {
  t.teardown(() => app.close())
  for (const url of urls) {
    const user = newUser()
    t.equal((await ask(app, user, url)).statusCode, 200, url)
    t.match(await logsOf(db, user), [{ type: 'calls', amount: 1 }], url)
  }
}

for (const isAwaited of [true, false]) {
  t.test(`meters routes declared before and after a registration ${isAwaited ? 'with' : 'without'} await`, async t => {
    const app = Fastify()
    app.get('/before', work, async () => 'x')
    app.get('/before-by-rule', async () => 'x')
    app.register(async child => void child.get('/child-before', work, async () => 'x'))
    const registered = app.register(
      quotaPlugin,
      options({
        rules: [
          { url: '/before-by-rule', quota: 'calls' },
          { url: '/deep/*', quota: 'calls' }
        ]
      })
    )
    if (isAwaited) await registered
    app.get('/after', work, async () => 'x')
    app.register(async child => {
      child.get('/leaf', work, async () => 'x')
      child.register(async grandchild => void grandchild.get('/by-rule/:id', async () => 'x'), { prefix: '/deep' })
    })
    await charges(t, app, [
      '/before',
      '/before-by-rule',
      '/after',
      '/leaf',
      '/deep/by-rule/1',
      ...(isAwaited ? [] : ['/child-before'])
    ])
  })
}

t.test('meters a scope registered before the plugin, and gives its handlers request.quota', async t => {
  const app = Fastify()
  app.register(async child => {
    child.get('/metered', work, async request => request.quota.charges.map(charge => charge.type))
    child.get('/unmetered', async request => request.quota.charges)
  })
  app.register(quotaPlugin, options())
  await charges(t, app, ['/metered'])
  t.same((await ask(app, newUser(), '/metered')).json(), ['calls'])
  t.same((await app.inject('/unmetered')).json(), [])
})

t.test('meters the encapsulated child that it is registered in, and nothing outside it', async t => {
  const app = Fastify()
  app.register(async child => {
    child.register(quotaPlugin, options())
    child.get('/inside', work, async () => 'x')
  })
  app.get('/outside', async request => String(request.quota))
  await charges(t, app, ['/inside'])
  t.equal((await app.inject('/outside')).body, 'undefined')
})

t.test(
  'refuses a second registration in a sibling without a prefix, because /quotas/me is already declared',
  async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    app.register(async child => void (await child.register(quotaPlugin, options())))
    app.register(async child => void (await child.register(quotaPlugin, options())))
    await t.rejects(async () => await app.ready(), {
      code: 'FST_QUOTA_INVALID_OPTION',
      message:
        'Option self.url is /quotas/me, which is already declared, perhaps by another registration; choose another path, or set self: false.'
    })
  }
)

t.test('meters two siblings, each with its own prefix, rules and admin token', async t => {
  const app = Fastify()
  for (const prefix of ['/a', '/b']) {
    app.register(
      async child => {
        child.register(
          quotaPlugin,
          options({
            rules: [{ url: `${prefix}/work/:id`, quota: 'calls' }],
            admin: { token: `a-long-admin-token-of${prefix}` }
          })
        )
        child.get('/work/:id', async () => 'x')
      },
      { prefix }
    )
  }
  await charges(t, app, ['/a/work/1', '/b/work/1'])
  t.equal((await app.inject({ url: '/a/quotas/me', headers: { 'x-user': 'x' } })).statusCode, 200)
  t.equal(
    (await app.inject({ url: '/b/admin/quotas/usage-logs', headers: { 'x-admin-token': 'a-long-admin-token-of/b' } }))
      .statusCode,
    200
  )
  t.equal(
    (await app.inject({ url: '/b/admin/quotas/usage-logs', headers: { 'x-admin-token': 'a-long-admin-token-of/a' } }))
      .statusCode,
    403
  )
})

t.test(
  "its own routes answer unchanged by the application's compilers, serializers and preSerialization hooks",
  async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    // Like those for Zod, which accept no JSON schema.
    const refuse = () => {
      throw new Error('no schema of this kind')
    }
    app.setSerializerCompiler(refuse)
    app.setValidatorCompiler(refuse)
    app.setReplySerializer(() => '<answer/>')
    app.addHook('preSerialization', async (_request, _reply, payload) => ({ data: payload }))
    const token = 'a-token-for-this-test'
    await app.register(quotaPlugin, options({ admin: { token } }))
    const user = newUser()
    const headers = { 'x-user': user, 'x-admin-token': token }
    const answers = {
      '/quotas/me': { user_id: user },
      '/admin/quotas/users?limit=1': { users: [] },
      '/admin/quotas/usage-logs': { usage_logs: [] },
      '/admin/quotas/health': { service: 'quota-admin' },
      '/admin/quotas/users/nobody': { status: 404, code: 'FST_QUOTA_UNKNOWN_USER' }
    }
    for (const [url, answer] of Object.entries(answers)) {
      const reply = await app.inject({ url, headers })
      t.match(reply.json(), answer, url)
      t.match(reply.headers['content-type'], /^application\/(problem\+)?json; charset=utf-8$/, url)
    }
    const head = await app.inject({ method: 'HEAD', url: '/admin/quotas/quota-types', headers })
    t.ok(Number(head.headers['content-length']) > 2)
  }
)

t.test('does not start on a Fastify older than its peer dependency allows', async t => {
  const { peerDependencies } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'))
  const app = Fastify()
  t.teardown(() => app.close())
  Object.defineProperty(app, 'version', { value: '5.10.0' })
  app.register(quotaPlugin, options())
  await t.rejects(async () => void (await app.ready()), {
    code: 'FST_ERR_PLUGIN_VERSION_MISMATCH',
    message: `expected '${peerDependencies.fastify}' fastify version, '5.10.0' is installed`
  })
})

t.test('refuses a second registration inside the scope of the first', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(quotaPlugin, options())
  app.register(async child => void child.register(quotaPlugin, options()))
  await t.rejects(async () => void (await app.ready()), { code: 'FST_QUOTA_ALREADY_REGISTERED' })
})

/** A registration inside a scope, and then one around it. */
function around(t: import('tap').Test, inner: { rules?: Rules; config?: object }, outer: Rules): FastifyInstance {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(async child => {
    child.register(quotaPlugin, options({ admin: false, self: false, rules: inner.rules }))
    child.get('/inner/:id', { config: inner.config }, async () => 'x')
  })
  app.register(quotaPlugin, options({ admin: false, self: false, rules: outer }))
  app.get('/outer', async () => 'x')
  return app
}

t.test('refuses a registration around an earlier one where a route would be charged twice', async t => {
  const rules = [{ url: '/inner/*', quota: 'calls' }]
  for (const [inner, outer] of [
    [work, []],
    [{ rules }, [{ url: '/*', quota: 'tokens' }]],
    [{ rules }, [{ method: 'GET', url: '/inner/:id', quota: 'calls' }]]
  ] as [Parameters<typeof around>[1], Rules][])
    await t.rejects(async () => void (await around(t, inner, outer).ready()), {
      code: 'FST_QUOTA_ALREADY_REGISTERED',
      message:
        'Two registrations of fastify-quota, one around the other, would both charge GET /inner/:id. For a second registration, use a sibling scope.'
    })
})

t.test('meters a registration and one around it that charge different routes', async t => {
  const rules = [{ url: '/inner/*', quota: 'calls' }]
  for (const [inner, outer] of [
    [{ rules }, [{ url: '/outer', quota: 'calls' }]],
    [
      { rules },
      [
        { url: '/*', quota: 'calls' },
        { url: '/inner/*', quota: false }
      ]
    ],
    [{}, [{ url: '/*', quota: 'calls' }]]
  ] as [Parameters<typeof around>[1], Rules][])
    await charges(t, around(t, inner, outer), ['/inner/1', '/outer'])
})

t.test('refuses a route with config.quota that no registration reaches', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.get('/outside', work, async () => 'x')
  app.register(async child => void child.register(quotaPlugin, options()))
  await t.rejects(async () => void (await app.ready()), {
    code: 'FST_QUOTA_ROUTE_OUT_OF_REACH',
    message: /GET \/outside/
  })
})

t.test('starts and meters even if telemetry has wrapped the hooks of every plugin', async t => {
  const app = Fastify()
  const { addHook } = app
  // As @fastify/otel does.
  Object.assign(app, {
    addHook(this: FastifyInstance, name: string, hook: (...given: unknown[]) => unknown) {
      const wrapped = function (this: unknown, ...given: unknown[]) {
        return hook.apply(this, given)
      }
      return addHook.call(this, name as 'onRequest', (/^on(Request|Send)$|^pre/.test(name) ? wrapped : hook) as never)
    }
  })
  app.register(quotaPlugin, options({ rules: [{ url: '/by-rule', quota: 'calls' }] }))
  app.get('/work', work, async () => 'x')
  app.get('/by-rule', async () => 'x')
  await charges(t, app, ['/work', '/by-rule'])
  t.match(
    app.quota.routes().filter(route => route.metering !== undefined && route.method === 'GET'),
    [{ url: '/work' }, { url: '/by-rule' }]
  )
})

t.test('a route overrides rules, a more specific rule overrides a more general one, and false exempts', async t => {
  const app = Fastify()
  app.register(
    quotaPlugin,
    options({
      rules: [
        { url: '/*', quota: { type: 'calls', amount: 1 } },
        { url: '/v1/*', quota: 'calls', amount: 2 },
        { method: 'GET', url: '/v1/*', quota: 'calls', amount: 3 },
        { method: 'GET', url: '/v1/exact/:id', quota: 'calls', amount: 4 },
        { url: '/v1/open', quota: false }
      ]
    })
  )
  app.get('/other', async () => 'x')
  app.post('/v1/any', async () => 'x')
  app.get('/v1/any', async () => 'x')
  app.get('/v1/exact/:id', async () => 'x')
  app.get('/v1/open', async () => 'x')
  app.get('/v1/free', { config: { quota: false } }, async () => 'x')
  app.get('/v1/own', { config: { quota: { type: 'calls', amount: 5 } } }, async () => 'x')
  t.teardown(() => app.close())
  const cost = async (url: string, method: 'GET' | 'POST' = 'GET') =>
    (await ask(app, newUser(), url, method)).headers['x-quota-cost']
  t.equal(await cost('/other'), '1')
  t.equal(await cost('/v1/any', 'POST'), '2')
  t.equal(await cost('/v1/any'), '3')
  t.equal(await cost('/v1/exact/9'), '4')
  t.equal(await cost('/v1/open'), undefined)
  t.equal(await cost('/v1/free'), undefined)
  t.equal(await cost('/v1/own'), '5')
})

t.test('meters only the method that a rule names, whichever method of the route is requested first', async t => {
  for (const [first, second] of [
    ['GET', 'POST'],
    ['POST', 'GET']
  ] as const) {
    const app = Fastify()
    t.teardown(() => app.close())
    app.register(quotaPlugin, options({ rules: [{ method: 'POST', url: '/things', quota: 'calls' }] }))
    app.route({ method: ['GET', 'POST'], url: '/things', handler: async () => 'x' })
    for (const method of [first, second, first]) {
      const { headers } = await ask(app, newUser(), '/things', method)
      t.equal(headers['x-quota-cost'], method === 'POST' ? '1' : undefined, `${method}, where ${first} came first`)
    }
  }
})

t.test('lets no spelling of a path escape its rule', async t => {
  const app = Fastify({
    routerOptions: {
      ignoreTrailingSlash: true,
      ignoreDuplicateSlashes: true,
      caseSensitive: false
    },
    useSemicolonDelimiter: true
  })
  t.teardown(() => app.close())
  app.register(quotaPlugin, options({ rules: [{ url: '/v1/work/:id', quota: 'calls' }] }))
  app.get('/v1/work/:id', async () => 'x')
  for (const url of [
    '/v1/work/1',
    '/V1/WORK/1',
    '/v1/work/1/',
    '//v1//work/1',
    '/v1/%77ork/1',
    '/v1/work/%2e%2e',
    '/v1/work/1;a=b',
    '/v1/work/1?x=/v1/free',
    '/v1/work/a%2Fb'
  ]) {
    const user = newUser()
    const { statusCode } = await ask(app, user, url)
    t.equal((await logsOf(db, user)).length, statusCode === 200 ? 1 : 0, `${url}: ${statusCode}`)
  }
})

t.test('a rule meters every route that the router takes for the same, however rule and route are spelled', async t => {
  const router = { caseSensitive: false, ignoreDuplicateSlashes: true }
  for (const server of [router, { routerOptions: router }, { ...router, routerOptions: { maxParamLength: 200 } }]) {
    const app = Fastify(server)
    app.register(
      quotaPlugin,
      options({
        rules: [
          { url: '/v1/work/:id', quota: 'calls' },
          { url: '/v2/*', quota: 'calls' },
          { url: '//V3//*', quota: 'calls' }
        ]
      })
    )
    app.get('/V1/Work/:ID', async () => 'x')
    app.get('/v2/seen', async () => 'x')
    app.get('/V2/Unseen', async () => 'x')
    app.get('//v2//slashed', async () => 'x')
    app.register(async child => void child.get('/', async () => 'x'), { prefix: '/V3' })
    await charges(t, app, [
      '/v1/work/1',
      '/V1//WORK/1',
      '/v2/seen',
      '/v2/unseen',
      '/V2/UNSEEN',
      '/v2/slashed',
      '/V3',
      '/v3/'
    ])
  }
})

t.test('rules are case-sensitive exactly when the router is', async t => {
  const boot = async (routerOptions: object, urls: string[]) => {
    const app = Fastify({ routerOptions })
    t.teardown(() => app.close())
    app.register(quotaPlugin, options({ rules: urls.map(url => ({ url, quota: 'calls' })) }))
    app.get('/V1', async () => 'x')
    await app.ready()
  }
  await t.rejects(boot({ caseSensitive: false }, ['/v1', '/V1']), {
    code: 'FST_QUOTA_INVALID_OPTION',
    message: /rules\[1\] claims the same requests as rules\[0\] \(\* \/V1\)/
  })
  await t.rejects(boot({}, ['/v1']), { code: 'FST_QUOTA_RULE_WITHOUT_ROUTE', message: /rules\[0\] \(\* \/v1\)/ })
})

t.test('logs the declared route, never the path that was requested', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(quotaPlugin, options())
  app.get('/l3_detect/:patient/:date', work, async () => 'x')
  const user = newUser()
  await ask(app, user, '/l3_detect/Jane%20Doe/2026-01-01?secret=1')
  t.match(await logsOf(db, user), [{ endpoint: '/l3_detect/:patient/:date', metadata: {} }])
})

t.test('charges users separately, whatever characters their ids contain', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(quotaPlugin, options({ identify: request => decodeURIComponent(request.headers['x-user'] as string) }))
  app.get('/work', work, async () => 'x')
  for (const user of [
    'a/b',
    '%2F',
    `'; DROP TABLE usage_logs; --`,
    '"quoted"',
    '日本語 😀',
    '__proto__',
    'x'.repeat(255)
  ]) {
    t.equal((await ask(app, encodeURIComponent(user), '/work')).statusCode, 200, user)
    t.equal((await logsOf(db, user)).length, 1, user)
  }
})

t.test(
  'meters a route with an optional last parameter, given or omitted, by its declared URL or by a pattern',
  async t => {
    for (const url of ['/optional/:id?', '/optional/*']) {
      const app = Fastify()
      app.register(quotaPlugin, options({ rules: [{ url, quota: 'calls' }] }))
      app.get('/optional/:id?', async () => 'x')
      await charges(t, app, ['/optional/1', '/optional'])
    }
  }
)

t.test(
  'a pattern such as /api/* also meters the root route of the prefix, with and without a trailing slash',
  async t => {
    for (const routerOptions of [{}, { ignoreTrailingSlash: true }]) {
      const app = Fastify({ routerOptions })
      app.register(quotaPlugin, options({ rules: [{ url: '/api/*', quota: 'calls' }] }))
      app.register(async child => void child.get('/', async () => 'x'), { prefix: '/api' })
      await charges(t, app, ['/api/', '/api'])
    }
    const app = Fastify({ routerOptions: { ignoreTrailingSlash: true } })
    app.register(quotaPlugin, options({ rules: [{ url: '/plain/*', quota: 'calls' }] }))
    app.get('/plain/', async () => 'x')
    await charges(t, app, ['/plain/', '/plain'])
  }
)

t.test('routes() lists a route once, however many URLs the router has for it', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(quotaPlugin, options({ self: false }))
  app.register(async child => void child.get('/', work, async () => 'x'), { prefix: '/prefixed' })
  app.get('/optional/:id?', async () => 'x')
  app.get('/constrained', { constraints: { version: '1.0.0' } }, async () => 'x')
  app.get('/constrained', { ...work, constraints: { version: '2.0.0' } }, async () => 'x')
  app.route({ method: ['POST', 'PUT'], url: '/several', handler: async () => 'x' })
  await app.ready()
  const listed = app.quota.routes().filter(({ method }) => method !== 'HEAD')
  t.strictSame(listed.map(({ method, url, metering }) => `${method} ${url}${metering ? ' metered' : ''}`).sort(), [
    'GET /constrained',
    'GET /constrained metered',
    'GET /optional/:id?',
    'GET /prefixed metered',
    'POST /several',
    'PUT /several'
  ])
})

t.test('the pattern /reports/* does not meter a route /reports', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(quotaPlugin, options({ rules: [{ url: '/reports/*', quota: 'calls' }] }))
  app.get('/reports', async () => 'x')
  app.get('/reports/:id', async () => 'x')
  const user = newUser()
  t.equal((await ask(app, user, '/reports')).headers['x-quota-cost'], undefined)
  t.equal((await ask(app, user, '/reports/1')).headers['x-quota-cost'], '1')
})

t.test(
  'a metered handler keeps its name, its length and its `this`, and what it throws or returns is answered as ever',
  async t => {
    let executed = 0
    // biome-ignore lint/suspicious/noThenProperty: like Drizzle's, which runs for each `then`
    const query = { then: (resolve: (value: unknown) => void) => resolve({ executed: ++executed }) }
    const app = await metered(t, db, app => {
      function named(this: FastifyInstance, request: FastifyRequest) {
        const { name, length } = request.routeOptions.handler
        return { name, length, isApp: this === app }
      }
      app.get('/named', work, named as never)
      app.get('/query', work, () => query as never)
      app.get('/throws', work, () => {
        throw Object.assign(new Error('planted'), { statusCode: 418 })
      })
    })
    const user = newUser()
    t.strictSame((await ask(app, user, '/named')).json(), { name: 'bound named', length: 1, isApp: true })
    t.strictSame((await ask(app, user, '/query')).json(), { executed: 1 })
    t.match((await ask(app, user, '/throws')).json(), { statusCode: 418, message: 'planted' })
  }
)
