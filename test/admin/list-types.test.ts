import t from 'tap'
import { isAnswer, isProblem, operated } from '../fixtures/admin.ts'

const { db, call } = await operated(t)
const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

t.test('200: every type in order of its key, with the default limit of new users', async t => {
  const reply = await call('/quota-types')
  isAnswer(t, reply)
  t.strictSame(Object.keys(reply.json()), ['quota_types'])
  const types = reply.json().quota_types as { created_at: string; updated_at: string }[]
  for (const { created_at, updated_at } of types) t.match([created_at, updated_at], [ISO, ISO])
  const common = { description: null, kind: 'flow', is_active: true }
  t.strictSame(
    types.map(({ created_at: _, updated_at: __, ...rest }) => rest),
    [
      { type_key: 'calls', name: 'calls', unit: 'call', period: 'month', default_limit: 10, ...common },
      { type_key: 'free', name: 'free', unit: 'call', period: 'month', default_limit: -1, ...common },
      {
        type_key: 'storage',
        name: 'storage',
        unit: 'byte',
        period: 'never',
        default_limit: 100,
        ...common,
        kind: 'level'
      },
      { type_key: 'tokens', name: 'tokens', unit: 'token', period: 'day', default_limit: 1000, ...common }
    ]
  )
})

t.test('200: includes types that are switched off, created by an operator, or inserted by hand', async t => {
  const body = { description: 'What an <operator> "made"', default_limit: 0, is_active: false }
  t.equal((await call('/quota-types/scans', { method: 'PUT', body })).statusCode, 201)
  const max = Number.MAX_SAFE_INTEGER
  await db.query(`INSERT INTO quota_types (type_key, name, default_limit) VALUES ('aaa', '山田', ${max})`)
  const [first, , , scans, ...more] = (await call('/quota-types')).json().quota_types
  t.match(first, { type_key: 'aaa', name: '山田', default_limit: max, is_active: true })
  t.match(scans, { type_key: 'scans', ...body })
  t.equal(more.length, 2)
  t.equal((await call('/quota-types', { method: 'HEAD' })).statusCode, 200)
})

t.test('400: takes no parameters', async t => {
  isProblem(t, await call('/quota-types?is_active=true'), 400, { field: 'is_active' })
})

t.test('403: without the token', async t => {
  isProblem(t, await call('/quota-types', { token: null }), 403)
  isProblem(t, await call('/quota-types', { token: 'wrong' }), 403)
})

t.test('404: a method other than GET on the list, or other than PUT on a type', async t => {
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE'] as const)
    isProblem(t, await call('/quota-types', { method, body: {} }), 404, {}, method)
  for (const method of ['GET', 'DELETE', 'PATCH', 'POST'] as const)
    isProblem(
      t,
      await call('/quota-types/calls', { method, ...(method === 'GET' ? {} : { body: {} }) }),
      404,
      {},
      method
    )
})

t.test('503: the database does not answer', async t => {
  await db.close()
  const reply = await call('/quota-types')
  isProblem(t, reply, 503, { code: 'FST_QUOTA_STORE' })
  t.equal(reply.headers['retry-after'], '2')
})
