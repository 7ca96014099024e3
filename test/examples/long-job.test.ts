import t from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import { example } from '../fixtures/example.ts'
import { logsOf } from '../fixtures/metered.ts'

const { app, logged } = await example(t, 'long-job')
const db = await connect({ dataDir: './.fastify-quota' })
t.teardown(() => db.close())
const start = (user: string, video: string) =>
  app.inject({ method: 'POST', url: '/jobs', headers: { 'x-user-id': user }, payload: { video } })
const standing = async (user: string) => {
  const { used, reserved, remaining } = await app.quota.check(user, 'minutes')
  return { used, reserved, remaining }
}

t.test('holds the most a job may cost, and charges what it took when it is done', async t => {
  const reply = await start('alice', 'cat.mp4')
  t.equal(reply.statusCode, 202)
  const { id } = reply.json()
  t.equal(reply.headers.location, `/jobs/${id}`)
  t.strictSame(await standing('alice'), { used: 0, reserved: 10, remaining: 50 })
  t.strictSame(await logsOf(db, 'alice'), [{ type: 'minutes', amount: 3, endpoint: '/jobs', metadata: { job: id } }])
  t.strictSame(await standing('alice'), { used: 3, reserved: 0, remaining: 57 })
  t.strictSame((await app.inject({ url: `/jobs/${id}` })).json(), { state: 'done' })
})

t.test('gives everything back when a job fails', async t => {
  const { id } = (await start('bob', 'letter.txt')).json()
  t.strictSame(await logsOf(db, 'bob'), [])
  t.strictSame(await standing('bob'), { used: 0, reserved: 0, remaining: 60 })
  t.strictSame((await app.inject({ url: `/jobs/${id}` })).json(), { state: 'failed' })
  t.match(
    logged().find(line => line.msg === 'job failed'),
    { job: id, err: { message: 'This is not a video' } }
  )
})

t.test('accepts no more jobs at once than the quota covers', async t => {
  const replies = await Promise.all(Array.from({ length: 8 }, () => start('carol', 'cat.mp4')))
  const statuses = replies.map(reply => reply.statusCode).sort()
  t.strictSame(statuses, [202, 202, 202, 202, 202, 202, 402, 402])
  t.match(replies.find(reply => reply.statusCode === 402)?.json(), { code: 'FST_QUOTA_EXCEEDED' })
})

t.test('finishes and charges running jobs when the application closes', async t => {
  await start('dora', 'cat.mp4')
  await app.close()
  t.match(await logsOf(db, 'dora'), [{ amount: 3 }])
})
