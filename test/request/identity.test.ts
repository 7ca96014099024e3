import { createHmac, generateKeyPairSync } from 'node:crypto'
import fastifyJwt from '@fastify/jwt'
import Fastify from 'fastify'
import t from 'tap'
import quotaPlugin, { type QuotaOptions } from '../../src/index.ts'
import { embedded } from '../fixtures/database.ts'
import { logsOf, newUser, onEmbedded, QUOTAS } from '../fixtures/metered.ts'

const db = await embedded(t)
const secret = 'a secret of the tests, with 32 characters and more'

async function app(t: import('tap').Test, options: QuotaOptions, prepare?: (app: ReturnType<typeof Fastify>) => void) {
  const app = Fastify()
  t.teardown(() => app.close())
  prepare?.(app)
  app.register(quotaPlugin, { ...onEmbedded(db), quotas: QUOTAS, ...options })
  app.get('/work', { config: { quota: 'calls' } }, async () => 'x')
  app.get('/open', async () => 'x')
  await app.ready()
  return app
}

const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
const sign = (payload: object, key = secret, header: object = { alg: 'HS256', typ: 'JWT' }, hash = 'sha256') => {
  const text = `${encode(header)}.${encode(payload)}`
  return `${text}.${createHmac(hash, key).update(text).digest('base64url')}`
}

t.test("charges the verified token's sub", async t => {
  const a = await app(t, { jwt: { secret } })
  const user = newUser()
  const response = await a.inject({ url: '/work', headers: { authorization: `Bearer ${a.jwt.sign({ sub: user })}` } })
  t.equal(response.statusCode, 200)
  t.equal((await logsOf(db, user)).length, 1)
})

t.test("uses the application's own @fastify/jwt, whatever the option jwt says", async t => {
  for (const options of [{}, { jwt: { secret: 'another secret with 32 characters or more' } }]) {
    const a = await app(t, options, app => void app.register(fastifyJwt, { secret }))
    const user = newUser()
    t.equal(
      (await a.inject({ url: '/work', headers: { authorization: `Bearer ${a.jwt.sign({ sub: user })}` } })).statusCode,
      200
    )
    t.equal((await logsOf(db, user)).length, 1)
  }
})

t.test('verifies tokens with the method that @fastify/jwt makes of the option jwt', async t => {
  for (const jwt of [
    { secret, jwtVerify: 'verifyQuota' },
    { secret, namespace: 'quota' },
    { secret, namespace: 'quota', jwtVerify: 'verifyQuota' }
  ]) {
    const a = await app(t, { jwt })
    const ask = async (key: string) => {
      const headers = { authorization: `Bearer ${sign({ sub: newUser() }, key)}` }
      return (await a.inject({ url: '/work', headers })).statusCode
    }
    t.strictSame([await ask(secret), await ask(`${secret}!`)], [200, 401], JSON.stringify(jwt))
  }
})

t.test('keeps what else jwt.verify asks for, and the algorithms that it names', async t => {
  const status = async (verify: object, token: string) => {
    const a = await app(t, { jwt: { secret, verify } })
    return (await a.inject({ url: '/work', headers: { authorization: `Bearer ${token}` } })).statusCode
  }
  t.equal(await status({ allowedIss: 'us' }, sign({ sub: newUser(), iss: 'us' })), 200)
  t.equal(await status({ allowedIss: 'us' }, sign({ sub: newUser(), iss: 'them' })), 401)
  const other = sign({ sub: newUser() }, secret, { alg: 'HS512', typ: 'JWT' }, 'sha512')
  t.equal(await status({ algorithms: ['HS512'] }, other), 200)
  t.equal(await status({ algorithms: ['HS512'] }, sign({ sub: newUser() })), 401)
})

t.test('answers 401 with problem details and a challenge to a metered request without a token', async t => {
  const a = await app(t, { jwt: { secret } })
  const response = await a.inject('/work')
  t.equal(response.statusCode, 401)
  t.match(response.headers, { 'content-type': /^application\/problem\+json/, 'www-authenticate': 'Bearer' })
  t.match(response.json(), {
    status: 401,
    title: 'Unauthorized',
    code: 'FST_QUOTA_UNAUTHORIZED',
    detail: /no bearer token/
  })
  t.equal((await a.inject('/open')).statusCode, 200)
})

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
const now = Math.floor(Date.now() / 1000)
const bad: [title: string, authorization: () => string][] = [
  [
    'signed with another secret',
    () => `Bearer ${sign({ sub: 'mallory' }, 'another secret with 32 characters or more')}`
  ],
  ['that has expired', () => `Bearer ${sign({ sub: 'mallory', exp: now - 60 })}`],
  ['that is not valid yet', () => `Bearer ${sign({ sub: 'mallory', nbf: now + 3600 })}`],
  ['with alg none', () => `Bearer ${encode({ alg: 'none' })}.${encode({ sub: 'mallory' })}.`],
  ['with alg nOnE', () => `Bearer ${encode({ alg: 'nOnE' })}.${encode({ sub: 'mallory' })}.`],
  [
    'signed with the same secret but another algorithm',
    () => `Bearer ${sign({ sub: 'mallory' }, secret, { alg: 'HS512', typ: 'JWT' }, 'sha512')}`
  ],
  [
    'with an RS256 header',
    () =>
      `Bearer ${encode({ alg: 'RS256' })}.${encode({ sub: 'mallory' })}.${privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64url').slice(0, 86)}`
  ],
  ['without a sub', () => `Bearer ${sign({ name: 'mallory' })}`],
  ['whose sub is a number', () => `Bearer ${sign({ sub: 5 })}`],
  ['with an empty sub', () => `Bearer ${sign({ sub: '' })}`],
  ['with a control character in its sub', () => `Bearer ${sign({ sub: 'a\r\nb' })}`],
  ['with a sub of 256 characters', () => `Bearer ${sign({ sub: 'x'.repeat(256) })}`],
  ['that is not a JWT', () => 'Bearer x'],
  ['in another authorization scheme', () => 'Basic YWxpY2U6eA==']
]

for (const [title, authorization] of bad) {
  t.test(`answers 401 to a token ${title}`, async t => {
    const a = await app(t, { jwt: { secret } })
    const response = await a.inject({ url: '/work', headers: { authorization: authorization() } })
    t.equal(response.statusCode, 401)
    t.equal(response.json().code, 'FST_QUOTA_UNAUTHORIZED')
    t.same(await logsOf(db, 'mallory'), [])
  })
}

t.test('refuses an id that could break out of a header or a log line, even from a verified token', async t => {
  const lines: string[] = []
  const own = Fastify({ logger: { level: 'trace', stream: { write: line => void lines.push(line) } } })
  t.teardown(() => own.close())
  own.register(quotaPlugin, { ...onEmbedded(db), quotas: QUOTAS, jwt: { secret } })
  own.get('/work', { config: { quota: 'calls' } }, async () => 'x')
  const ids = [
    'mallory\r\nx-admin: 1',
    'mallory\n{"level":30,"user":"bob"}',
    'mallory\u0000',
    'mallory\u009b31m',
    'mallory\ud800'
  ]
  for (const sub of [...ids, 'm'.repeat(256)]) {
    const response = await own.inject({ url: '/work', headers: { authorization: `Bearer ${sign({ sub })}` } })
    t.equal(response.statusCode, 401, JSON.stringify(sub))
    t.notMatch(JSON.stringify([response.headers, response.body]), /mallory|x-admin/)
  }
  t.notMatch(lines.join(''), /mallory/)
  t.strictSame(await db.query("SELECT id FROM quota_users WHERE id LIKE 'mallory%' OR id LIKE 'mmm%'"), [])
})

t.test('charges the user that an asynchronous identify returns, and answers 401 if it returns none', async t => {
  const user = newUser()
  const keys = new Map([['key-1', user]])
  const a = await app(t, { identify: async request => keys.get(request.headers['x-api-key'] as string) })
  t.equal((await a.inject({ url: '/work', headers: { 'x-api-key': 'key-1' } })).statusCode, 200)
  t.equal((await a.inject({ url: '/work', headers: { 'x-api-key': 'key-2' } })).statusCode, 401)
  t.equal((await a.inject('/work')).headers['www-authenticate'], undefined)
  t.equal((await logsOf(db, user)).length, 1)
})

t.test('answers with the status and message of an error from identify', async t => {
  const a = await app(t, { identify: () => Promise.reject(Object.assign(new Error('suspended'), { statusCode: 403 })) })
  const response = await a.inject('/work')
  t.equal(response.statusCode, 403)
  t.match(response.json(), { message: 'suspended' })
})

t.test(
  'shows users their own balances, without charging them or storing a new user, whatever the rules say',
  async t => {
    const a = await app(t, { jwt: { secret }, rules: [{ url: '/*', quota: 'calls' }] })
    const user = newUser()
    const headers = { authorization: `Bearer ${a.jwt.sign({ sub: user })}` }
    const unseen = (await a.inject({ url: '/quotas/me', headers })).json()
    t.match(unseen, { user_id: user, total_quotas: Number })
    t.match(
      unseen.quotas.find((q: { type_key: string }) => q.type_key === 'calls'),
      { limit: 10, used: 0, remaining: 10, usage_percent: 0 }
    )
    t.same(await db.query('SELECT 1 FROM quota_users WHERE id = $1', [user]), [])
    await a.inject({ url: '/work', headers })
    const seen = await a.inject({ url: '/quotas/me', headers })
    t.equal(seen.headers['cache-control'], 'no-store')
    t.match(
      seen.json().quotas.find((q: { type_key: string }) => q.type_key === 'calls'),
      { limit: 10, used: 1, remaining: 9, usage_percent: 10 }
    )
    t.equal((await a.inject('/quotas/me')).statusCode, 401)
  }
)

t.test('shows users their own balances at the url of the option self, and nowhere if it is false', async t => {
  const identify = () => 'alice'
  const urls = ['/quotas/me', '/account/usage']
  for (const [self, statuses] of [
    [undefined, [200, 404]],
    [{ url: '/account/usage' }, [404, 200]],
    [false, [404, 404]]
  ] as const) {
    const a = await app(t, { identify, self })
    const replies = await Promise.all(urls.map(url => a.inject(url)))
    t.strictSame(
      replies.map(({ statusCode }) => statusCode),
      statuses
    )
  }
})

t.test(
  "shows users their balances unchanged by the application's serializer compiler, reply serializer and preSerialization hook",
  async t => {
    const a = await app(t, { identify: request => request.headers['x-user'] as string }, app => {
      // Like Zod's: it accepts no schemas but its own.
      app.setSerializerCompiler(({ schema }: { schema: unknown }) => {
        throw new Error(`no schema of this language: ${JSON.stringify(schema)}`)
      })
      app.setReplySerializer(() => 'packed')
      app.addHook('preSerialization', async (_request: unknown, _reply: unknown, payload: unknown) => ({
        data: payload
      }))
    })
    const user = newUser()
    const reply = await a.inject({ url: '/quotas/me', headers: { 'x-user': user } })
    t.equal(reply.statusCode, 200)
    t.equal(reply.headers['content-type'], 'application/json; charset=utf-8')
    t.match(reply.json(), { user_id: user, total_quotas: Number, quotas: Array })
  }
)

t.test('answers 500 if identify or an amount function rejects with null or undefined', async t => {
  const a = await app(t, { identify: () => Promise.reject(null) })
  t.equal((await a.inject('/work')).statusCode, 500)
  const b = Fastify()
  t.teardown(() => b.close())
  b.register(quotaPlugin, { ...onEmbedded(db), quotas: QUOTAS, identify: () => newUser() })
  b.get('/work', { config: { quota: { type: 'calls', amount: () => Promise.reject() } } }, async () => 'x')
  t.equal((await b.inject('/work')).statusCode, 500)
})
