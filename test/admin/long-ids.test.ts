import swagger from '@fastify/swagger'
import Fastify from 'fastify'
import t from 'tap'
import quotaPlugin from '../../src/index.ts'
import { TOKEN } from '../fixtures/admin.ts'
import { embedded } from '../fixtures/database.ts'
import { byHeader, QUOTAS } from '../fixtures/metered.ts'

const db = await embedded(t)

t.test("finds users with the longest ids if Fastify's maxParamLength allows them", async t => {
  // 255 characters outside the basic plane are 510 to JavaScript. Fastify's default is 100.
  const app = Fastify({ routerOptions: { maxParamLength: 510 } })
  t.teardown(() => app.close())
  const admin = { token: TOKEN }
  await app.register(quotaPlugin, { connection: db.orm, quotas: QUOTAS, identify: byHeader, admin })
  for (const user of ['a'.repeat(255), '山'.repeat(255), '😀'.repeat(255)]) {
    await app.quota.consume(user, 'calls')
    const url = `/admin/quotas/users/${encodeURIComponent(user)}`
    const headers = { 'x-admin-token': TOKEN }
    t.match((await app.inject({ url, headers })).json(), { user_id: user, quotas: [{ used: 1 }] })
    t.match((await app.inject({ method: 'POST', url: `${url}/reset`, headers })).json(), { user_id: user })
  }
  const tooLong = await app.inject({
    url: `/admin/quotas/users/${'a'.repeat(256)}`,
    headers: { 'x-admin-token': TOKEN }
  })
  t.match(tooLong.json(), { status: 400, code: 'FST_QUOTA_INVALID_USER' })
})

t.test('documents the 414 that Fastify answers to an id longer than its maxParamLength', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(swagger, { openapi: { openapi: '3.1.0' } })
  const admin = { token: TOKEN }
  await app.register(quotaPlugin, { connection: db.orm, quotas: QUOTAS, identify: byHeader, admin })
  await app.ready()
  const reply = await app.inject(`/admin/quotas/users/${'a'.repeat(101)}`)
  t.equal(reply.statusCode, 414)
  t.match(reply.headers['content-type'], /^application\/json/)
  const { paths } = app.swagger() as unknown as {
    paths: Record<string, { get: { responses: Record<string, { content: Record<string, { schema: object }> }> } }>
  }
  const answer = paths['/admin/quotas/users/{userId}']?.get.responses[414]
  t.match(answer?.content['application/json']?.schema, { required: Object.keys(reply.json()).sort() })
})
