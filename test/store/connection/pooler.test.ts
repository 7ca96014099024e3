import t from 'tap'
import { connect } from '../../../src/store/connection/connect.ts'
import { server } from '../../fixtures/database.ts'
import { pooler } from '../../fixtures/pooler.ts'

const pg = await server(t)
const url = await pg.migrated()

/** How many statements a connection has prepared by name after it has run a few. */
async function prepared(t: import('tap').Test, url: string): Promise<number> {
  const db = await connect({ url, max: 1 })
  t.teardown(() => db.close())
  for (let i = 0; i < 3; i++) await db.query('SELECT $1::text', ['x'])
  const [row] = await db.query<{ n: number }>('SELECT count(*)::int AS n FROM pg_prepared_statements')
  return row?.n ?? 0
}

t.test('prepares statements by name on a direct connection to the server', async t => {
  t.not(await prepared(t, url), 0)
})

t.test('prepares nothing by name behind a pooler, where the next statement may run on another connection', async t => {
  t.equal(await prepared(t, await pooler(t, url)), 0)
})

t.test("the URL's prepare parameter decides, with and without a pooler", async t => {
  t.equal(await prepared(t, `${url}?prepare=false`), 0)
  t.not(await prepared(t, `${await pooler(t, url)}?prepare=true`), 0)
})

t.test('takes the pool size from the URL', async t => {
  const db = await connect(`${url}?max=2`)
  t.teardown(() => db.close())
  const pids = await Promise.all(
    Array.from({ length: 8 }, () => db.query<{ pid: number }>('SELECT pg_backend_pid() AS pid, pg_sleep(0.05)'))
  )
  t.equal(new Set(pids.map(([row]) => row?.pid)).size, 2)
})
