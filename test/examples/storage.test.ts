import { randomBytes } from 'node:crypto'
import t from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import { example } from '../fixtures/example.ts'
import { logsOf } from '../fixtures/metered.ts'

const { app } = await example(t, 'storage')
const MiB = 1024 * 1024
const stored = async (user: string) => (await app.quota.check(user, 'storage')).used

const upload = (user: string, bytes: Buffer) =>
  app.inject({
    method: 'POST',
    url: '/files',
    headers: { 'x-user-id': user, 'content-type': 'application/octet-stream' },
    payload: bytes
  })
const remove = (user: string, id: string) =>
  app.inject({ method: 'DELETE', url: `/files/${id}`, headers: { 'x-user-id': user } })

t.test('charges the bytes that are stored, not those that were uploaded', async t => {
  const reply = await upload('alice', Buffer.alloc(MiB / 2))
  t.equal(reply.statusCode, 201)
  const { size } = reply.json()
  t.ok(size < 1024, 'zeros are compressed')
  t.match(reply.headers, {
    'x-quota-type': 'storage',
    'x-quota-cost': String(size),
    'x-quota-used': String(size),
    'ratelimit-policy': `"storage";q=${10 * MiB}`
  })
  t.equal(reply.headers['x-quota-reset'], undefined, 'a level never resets')
  t.equal(await stored('alice'), size)
})

t.test('gives back a deleted file exactly once', async t => {
  const { id, size } = (await upload('bob', randomBytes(1000))).json()
  t.equal(await stored('bob'), size)
  const replies = await Promise.all([remove('bob', id), remove('bob', id)])
  t.ok(replies.some(reply => reply.statusCode === 204))
  t.equal(await stored('bob'), 0)
  t.equal((await remove('bob', id)).statusCode, 404)
  const db = await connect({ dataDir: './.fastify-quota' })
  t.strictSame(
    (await logsOf(db, 'bob')).map(({ amount, endpoint }) => [amount, endpoint]),
    [
      [size, '/files'],
      [-size, null]
    ]
  )
  await db.close()
})

t.test("neither deletes nor gives back another user's file", async t => {
  const { id, size } = (await upload('carol', randomBytes(1000))).json()
  t.equal((await remove('mallory', id)).statusCode, 404)
  t.equal(await stored('carol'), size)
})

t.test('refuses an upload that may not fit, and charges nothing', async t => {
  await app.quota.setUsage('dora', 'storage', 10 * MiB - 10)
  const reply = await upload('dora', Buffer.alloc(11))
  t.equal(reply.statusCode, 402)
  t.match(reply.json(), { quota_type: 'storage', required: 11, remaining: 10, resets_at: null })
  t.equal(reply.headers['retry-after'], undefined, 'waiting does not help')
  t.equal(await stored('dora'), 10 * MiB - 10)
})

t.test('charges nothing for a body that is too large', async t => {
  t.equal((await upload('erin', Buffer.alloc(MiB + 1))).statusCode, 413)
  t.equal(await stored('erin'), 0)
})
