import { existsSync } from 'node:fs'
import { join } from 'node:path'
import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import quotaPlugin, { type QuotaOptions } from '../../src/index.ts'
import { embedded, embeddedDir, freePort } from '../fixtures/database.ts'
import { byHeader, QUOTAS } from '../fixtures/metered.ts'

const db = await embedded(t)

/** Starts an application with these options; returns the error that it fails with, or the code `none`. */
async function boot(
  options: object,
  addRoutes?: (app: ReturnType<typeof Fastify>) => void
): Promise<{ code: string; message: string }> {
  const app = Fastify()
  app.register(quotaPlugin, { connection: db.orm, quotas: QUOTAS, identify: byHeader, ...options } as QuotaOptions)
  app.get('/work/:id', async () => 'x')
  addRoutes?.(app)
  try {
    await app.ready()
    return { code: 'none', message: 'it started' }
  } catch (error) {
    return error as { code: string; message: string }
  } finally {
    await app.close()
  }
}

const refused: [title: string, options: object, message: RegExp][] = [
  ['an unknown option', { quota: {} }, /Option quota is not known; known here: connection/],
  ['an unknown field in a declaration', { quotas: { calls: { limit: 1, windows: 3 } } }, /quotas\.calls\.windows/],
  ['an invalid quota type key', { quotas: { 'API-calls': { limit: 1 } } }, /quotas\.API-calls .*\[a-z\]/],
  ['a declaration without a limit', { quotas: { calls: {} } }, /quotas\.calls\.limit must be a whole number/],
  ['a fractional limit', { quotas: { calls: { limit: 1.5 } } }, /quotas\.calls\.limit .*1\.5/],
  ['a limit of 2^53', { quotas: { calls: { limit: 2 ** 53 } } }, /quotas\.calls\.limit/],
  ['a limit of −2', { quotas: { calls: { limit: -2 } } }, /quotas\.calls\.limit .*-1 for unlimited/],
  [
    'an unknown period',
    { quotas: { calls: { limit: 1, period: 'fortnight' } } },
    /quotas\.calls\.period .*hour, day, week/
  ],
  ['a level with a period', { quotas: { disk: { limit: 1, kind: 'level', period: 'day' } } }, /quotas\.disk\.period/],
  ['an unknown kind', { quotas: { calls: { limit: 1, kind: 'gauge' } } }, /quotas\.calls\.kind/],
  ['a rule amount of −1', { rules: [{ url: '/work/:id', quota: 'calls', amount: -1 }] }, /rules\[0\]\.amount .*-1/],
  ['a rule without a url', { rules: [{ quota: 'calls' }] }, /rules\[0\]\.url/],
  ['a rule with an unknown field', { rules: [{ url: '/work/:id', quota: 'calls', cost: 1 }] }, /rules\[0\]\.cost/],
  [
    'a rule that exempts a route and also sets its cost',
    { rules: [{ url: '/work/:id', quota: false, amount: -5, charge: 'x', denial: undefined, storeFailure: 'open' }] },
    /rules\[0\] has amount, charge, storeFailure beside quota: false/
  ],
  [
    'two rules for one route',
    {
      rules: [
        { url: '/work/:id', quota: 'calls' },
        { url: '/work/:id', quota: 'tokens' }
      ]
    },
    /rules\[1\] claims the same requests as rules\[0\]/
  ],
  [
    'a rule that names a type twice',
    { rules: [{ url: '/work/:id', quota: ['calls', 'calls'] }] },
    /rules\[0\].*'calls' twice/
  ],
  ['a denial status of 200', { denial: { statusCode: 200 } }, /denial\.statusCode/],
  ['an unknown storeFailure', { storeFailure: 'ajar' }, /storeFailure .*'closed' or 'open'/],
  ['an unknown settle', { settle: 'never' }, /settle/],
  [
    'a distributed that is not a boolean',
    { distributed: 'yes' as never },
    /distributed must be true or false, but is yes/
  ],
  ['a time to live of 0', { reservationTtlMs: 0 }, /reservationTtlMs/],
  ['a time to live of 2^31', { reservationTtlMs: 2 ** 31 }, /reservationTtlMs must be .* from 100 to 2\^31−1/],
  ['a store timeout of 49', { storeTimeoutMs: 49 }, /storeTimeoutMs must be .* from 50 to 60000, but is 49/],
  ['a store timeout of 60 001', { storeTimeoutMs: 60_001 }, /storeTimeoutMs .*60001/],
  ['a time to live of 99', { reservationTtlMs: 99 }, /reservationTtlMs .*99/],
  ['a fractional time to live', { reservationTtlMs: 1000.5 }, /reservationTtlMs must be a whole number .*1000\.5/],
  ['a fractional store timeout', { storeTimeoutMs: 100.5 }, /storeTimeoutMs must be a whole number .*100\.5/],
  ['quotas in an array', { quotas: [] }, /quotas must be an object/],
  ['rules that are not an array', { rules: { url: '/work/:id', quota: 'calls' } }, /rules must be an array/],
  [
    'a retention of half a day',
    { retention: { usageLogs: 0.5 } },
    /retention\.usageLogs must be a whole number of days/
  ],
  [
    'an unknown field in retention',
    { retention: { logs: 30 } as never },
    /retention\.logs is not known; known here: usageLogs, denials/
  ],
  ['an identify that is not a function', { identify: 'sub' }, /identify/],
  ['a short admin token', { admin: { token: 'short' } }, /admin\.token must have at least 16 characters/],
  ['admin routes without a token', { admin: {} }, /admin\.token is missing/],
  ['a short JWT secret', { jwt: { secret: 'short' } }, /jwt\.secret must have at least 32 characters/],
  ['a public key without algorithms', { jwt: { secret: { public: 'x' } } }, /jwt\.verify\.algorithms/],
  [
    'a short JWT secret beside algorithms',
    { jwt: { secret: 'short', verify: { algorithms: ['HS512'] } } },
    /jwt\.secret/
  ],
  ['a JWT secret of null', { jwt: { secret: null } }, /jwt\.secret is missing/],
  [
    'a PEM text without algorithms',
    { jwt: { secret: `-----BEGIN PUBLIC KEY-----\n${'x'.repeat(32)}` } },
    /jwt\.verify\.algorithms/
  ],
  [
    'a public key with no algorithm',
    { jwt: { secret: { public: 'x' }, verify: { algorithms: [] } } },
    /jwt\.verify\.algorithms/
  ],
  ['jwt as a text', { jwt: 'x'.repeat(32) }, /jwt must be an object/],
  ['an unknown field in self', { self: { path: '/me' } }, /self\.path is not known/],
  ['a self of true', { self: true }, /self must be an object/],
  ['a self url with a parameter', { self: { url: '/quotas/:me' } }, /self\.url/]
]

for (const [title, options, message] of refused) {
  t.test(`does not start with ${title}, and the error names the option`, async t => {
    const error = await boot(options)
    t.equal(error.code, 'FST_QUOTA_INVALID_OPTION')
    t.match(error.message, message)
  })
}

t.test('does not start with a rule that matches no route, and suggests similar routes', async t => {
  const error = await boot({ rules: [{ method: 'POST', url: '/work/:name', quota: 'calls' }] })
  t.equal(error.code, 'FST_QUOTA_RULE_WITHOUT_ROUTE')
  t.match(error.message, /rules\[0\] \(POST \/work\/:name\).*Perhaps: GET \/work\/:id$/)
  const { message } = await boot({ rules: [{ url: '/jobs', quota: 'calls' }] }, app => {
    app.register(async (child: FastifyInstance) => void child.get('/jobs', async () => 'x'), { prefix: '/v1' })
  })
  t.match(message, /rules\[0\] \(\* \/jobs\).*Perhaps: GET \/v1\/jobs$/, 'the prefix was left out')
})

t.test('does not start with a rule or a route that names an unknown type', async t => {
  t.match(await boot({ rules: [{ url: '/work/:id', quota: 'cals' }] }), {
    code: 'FST_QUOTA_UNKNOWN_TYPE',
    message: /'cals' \(rules\[0\]/
  })
  t.match(await boot({ rules: [{ url: '/work/:id', quota: ['calls', 'tokns'] }] }), {
    code: 'FST_QUOTA_UNKNOWN_TYPE',
    message: /'tokns' \(rules\[0\]/
  })
  t.match(await boot({}, app => void app.get('/typo', { config: { quota: 'tokns' } }, async () => 'x')), {
    code: 'FST_QUOTA_UNKNOWN_TYPE',
    message: /'tokns' .*GET \/typo/
  })
})

t.test('does not start with an invalid config.quota, and the error names the route', async t => {
  const error = await boot(
    {},
    app => void app.get('/odd', { config: { quota: { type: 'calls', amount: 1.5 } } }, async () => 'x')
  )
  t.match(error, { code: 'FST_QUOTA_INVALID_OPTION', message: /config\.quota of GET \/odd\.amount/ })
})

t.test('does not start without a way to identify users, and the error names jwt.secret and identify', async t => {
  t.match(await boot({ identify: undefined }), { code: 'FST_QUOTA_NO_IDENTITY', message: /jwt\.secret.*identify/ })
})

t.test(
  "does not start with SQLAlchemy's form of a URL, says what to write instead, and does not show the password",
  async t => {
    const error = await boot({ connection: 'postgresql+asyncpg://user:hidden@db/app' })
    t.match(error, { code: 'FST_QUOTA_CONNECTION', message: /postgresql\+asyncpg:\/\/.*write postgresql:\/\// })
    t.notMatch(error.message, /hidden/)
  }
)

t.test(
  "does not start when the database cannot be reached, and says so before Fastify's plugin timeout of ten seconds",
  async t => {
    const error = await boot({ connection: `postgres://user:hidden@127.0.0.1:${await freePort()}/app` })
    t.match(error, { code: 'FST_QUOTA_UNREACHABLE', message: /ECONNREFUSED.*DATABASE_URL/ })
    t.notMatch(error.message, /hidden/)
  }
)

t.test('does not let a flow become a level', async t => {
  await boot({ quotas: { ...QUOTAS, turncoat: { limit: 5 } } })
  t.match(await boot({ quotas: { ...QUOTAS, turncoat: { limit: 5, kind: 'level' } } }), {
    code: 'FST_QUOTA_KIND_CHANGED',
    message: /'turncoat' is stored as a flow/
  })
})

t.test('a boot that fails gives up the embedded directory, so that another process can open it', async t => {
  const dataDir = await embeddedDir(t)
  const options = { connection: { dataDir } }
  t.match(await boot({ ...options, quotas: { turncoat: { limit: 5 } } }), { code: 'none' })
  t.match(await boot({ ...options, quotas: { turncoat: { limit: 5, kind: 'level' } } }), {
    code: 'FST_QUOTA_KIND_CHANGED'
  })
  t.notOk(existsSync(join(dataDir, 'fastify-quota.pid')))
})
