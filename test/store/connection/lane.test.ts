import postgres from 'postgres'
import t from 'tap'
import { open } from '../../../src/store/connection/connect.ts'
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
