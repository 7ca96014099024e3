import { once } from 'node:events'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { open } from '../../../src/store/connection/connect.ts'
import { Hosts } from '../../../src/store/connection/hosts.ts'
import { Lane } from '../../../src/store/connection/lane.ts'
import { mayBeDone } from '../../../src/store/connection/may-be-done.ts'
import { lateAnswerTo, NOT_SENT } from '../../../src/store/late-answer.ts'
import { server } from '../../fixtures/database.ts'
import { untilWaiting } from '../../fixtures/lock-waits.ts'

const pg = await server(t)

t.test('a statement is not sent before a connection is free, and the wait counts against its deadline', async t => {
  const [db, watching] = [await open({ url: pg.url(), max: 1 }), await open(pg.url())]
  const sql = postgres(pg.url(), { max: 1 })
  t.teardown(async () => {
    await sql.end()
    await Promise.all([db.close(), watching.close()])
  })
  await db.query('SELECT 1')
  await sql`SELECT pg_advisory_lock(1), pg_advisory_lock(2)`
  const first = db.query('SELECT pg_advisory_lock(1)')
  await untilWaiting(watching)
  t.equal(await db.query('SELECT 1', [], 50).catch(lateAnswerTo), NOT_SENT)
  const second = db.query('SELECT pg_advisory_lock(2)', [], 600).catch(error => error)
  const third = db.query('SELECT 1', [], 300).catch(lateAnswerTo)
  await sql`SELECT pg_advisory_unlock(1)`
  await first
  t.equal(await third, NOT_SENT)
  const { message } = (await second) as Error
  t.match(message, /no answer within \d+ ms/)
  t.notMatch(message, 'within 600 ms')
  await sql`SELECT pg_advisory_unlock(2)`
})

function laneTo(t: Test, url: string, max: number, onclose = () => {}) {
  const lane = new Lane(url, new Hosts([{}]), { max, fetch_types: false, onnotice: () => {}, onclose }, {})
  t.teardown(() => lane.close())
  const ask = (text: string, deadlineMs = 20_000) =>
    lane.run(text, [], false, deadlineMs).then(rows => (rows as { is: unknown }[])[0]!.is)
  return { lane, ask, pid: () => ask('SELECT pg_backend_pid() AS is') }
}

t.test('an idle connection is used before another is opened, and there are never more than allowed', async t => {
  const { ask, pid } = laneTo(t, pg.url(), 2)
  const first = await pid()
  t.equal(await pid(), first)
  const pids = Array.from({ length: 6 }, () => ask('SELECT pg_backend_pid() AS is FROM pg_sleep(0.05)'))
  t.equal(new Set(await Promise.all(pids)).size, 2)
  t.equal(await pid(), first)
})

t.test('a connection that the server ends is replaced, and the application is told', async t => {
  let closed = 0
  const { ask, pid } = laneTo(t, pg.url(), 1, () => closed++)
  const watching = laneTo(t, pg.url(), 1)
  const first = await pid()
  const running = t.rejects(ask('SELECT pg_sleep(30)'), { code: 'FST_QUOTA_STORE' })
  await watching.ask(`SELECT pg_terminate_backend(${first}, 5000) AS is`)
  await running
  t.type(await pid(), 'number')
  t.not(await pid(), first)
  t.equal(closed, 1)
})

t.test('close() ends what runs, and what waits or comes later is not sent', async t => {
  const { lane, ask } = laneTo(t, pg.url(), 1)
  await ask('SELECT 1 AS is')
  const failed = (statement: Promise<unknown>) =>
    statement.then(
      () => t.fail('answered'),
      error => error
    )
  const running = failed(ask('SELECT pg_sleep(30)'))
  const waiting = failed(ask('SELECT 2 AS is'))
  await lane.close()
  const errors = [await waiting, await failed(ask('SELECT 3 AS is'))]
  t.match(await running, { code: 'FST_QUOTA_STORE' })
  for (const error of errors) {
    t.match(error, { code: 'FST_QUOTA_STORE', cause: { code: 'CONNECTION_ENDED' } })
    t.equal(await mayBeDone(error, 1), false)
  }
})

t.test('a server that refuses is asked a few times a second, however many statements there are', async t => {
  let asked = 0
  const refusing = createServer(socket => {
    asked += 1
    socket.on('error', () => {}).resetAndDestroy()
  }).listen(0, '127.0.0.1')
  await once(refusing, 'listening')
  t.teardown(() => refusing.close())
  const { ask } = laneTo(
    t,
    `postgres://postgres@127.0.0.1:${(refusing.address() as { port: number }).port}/postgres`,
    2
  )
  let refused = 0
  for (const end = performance.now() + 2_000; performance.now() < end; await sleep(2))
    ask('SELECT 1 AS is', 900).catch(() => refused++)
  t.ok(asked > 4 && asked < 40, `${asked} attempts`)
  t.ok(refused > 4, `${refused} refused`)
})
