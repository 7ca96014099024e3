import Fastify from 'fastify'
import t from 'tap'
import quotaPlugin, { type QuotaOptions } from '../../src/index.ts'
import { TOKEN } from '../fixtures/admin.ts'
import { embedded } from '../fixtures/database.ts'
import { byHeader, metered } from '../fixtures/metered.ts'

const db = await embedded(t)

t.test('refuses to start with invalid admin options, and names the option', async t => {
  const wrong: [path: string, admin: unknown][] = [
    ['admin.token', {}],
    ['admin.token', { token: undefined }],
    ['admin.token', { token: '' }],
    ['admin.token', { token: 'x'.repeat(15) }],
    ['admin.token', { token: {} }],
    ['admin.token', { token: ['x'.repeat(16)] }],
    ['admin.token', { token: null }],
    ['admin.token', { token: 1234567890123456 }],
    ['admin.token.deploy', { token: { ops: 'x'.repeat(16), deploy: 'short' } }],
    ['admin.token.ops', { token: { ops: undefined } }],
    ['admin.token', { token: `${'x'.repeat(16)}\n` }],
    ['admin.token', { token: ` ${'x'.repeat(16)}` }],
    ['admin.token', { token: 'é'.repeat(16) }],
    ['admin.token.ops', { token: { ops: `${'x'.repeat(8)}\0${'x'.repeat(8)}` } }],
    ['admin.token', { token: { '': 'x'.repeat(16) } }],
    ['admin.token', { token: { 'a\0b': 'x'.repeat(16) } }],
    ['admin.token.deploy', { token: { ops: 'x'.repeat(16), deploy: 'x'.repeat(16) } }],
    ['admin.authorize', { authorize: 'everybody' }],
    ['admin', { token: TOKEN, authorize: () => 'both' }],
    ['admin', true],
    ['admin', TOKEN],
    ['admin', null],
    ['admin.tokens', { tokens: TOKEN }],
    ['admin.prefix', { token: TOKEN, prefix: '' }],
    ['admin.prefix', { token: TOKEN, prefix: '/' }],
    ['admin.prefix', { token: TOKEN, prefix: 'admin' }],
    ['admin.prefix', { token: TOKEN, prefix: '/admin/' }],
    ['admin.prefix', { token: TOKEN, prefix: '/:tenant/admin' }],
    ['admin.prefix', { token: TOKEN, prefix: '/*' }]
  ]
  for (const [path, admin] of wrong) {
    const app = Fastify()
    const options = { connection: db.orm, identify: byHeader, admin } as QuotaOptions
    await t.rejects(
      async () => await app.register(quotaPlugin, options),
      { code: 'FST_QUOTA_INVALID_OPTION', message: `Option ${path} ` },
      `${path}: ${JSON.stringify(admin)}`
    )
    await app.close()
  }
})

t.test('keeps a refused token out of the error message', async t => {
  const app = Fastify()
  const options: QuotaOptions = { connection: db.orm, identify: byHeader, admin: { token: { ops: 'hunter2' } } }
  const error = await app.register(quotaPlugin, options).then(
    () => undefined,
    (error: Error) => error
  )
  t.ok(error instanceof Error)
  t.notMatch(error?.message, 'hunter2')
  await app.close()
})

t.test('accepts a token of 16 characters and a custom prefix', async t => {
  const token = 'x'.repeat(16)
  const app = await metered(t, db, () => {}, { admin: { token, prefix: '/internal/quotas' } })
  const ask = (url: string) => app.inject({ url, headers: { 'x-admin-token': token } })
  t.equal((await ask('/internal/quotas/usage-logs')).statusCode, 200)
  t.equal((await ask('/admin/quotas/usage-logs')).statusCode, 404)
})

t.test('has no admin routes unless the options ask for them', async t => {
  for (const options of [{}, { admin: false }] as const) {
    const app = await metered(t, db, () => {}, options)
    for (const url of ['/admin/quotas/users/alice', '/admin/quotas/usage-logs'])
      t.equal((await app.inject({ url, headers: { 'x-admin-token': '' } })).statusCode, 404)
  }
})
