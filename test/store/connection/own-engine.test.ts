// In a process of its own: while the engine creates its directory it blocks the process, and a test that waits for a server would time out.
import { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/pglite'
import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { connect } from '../../../src/store/connection/connect.ts'
import { tryHold } from '../../fixtures/charges.ts'

t.test("creates the tables in an application's own PGlite, which no command can reach", async t => {
  const engine = new PGlite()
  t.teardown(() => engine.close())
  const db = await connect(drizzle(engine))
  await declareTypes(db, { calls: { limit: 1 } })
  t.equal((await tryHold(db, 'alice', { calls: 1 })).admitted, true)
  await db.close()
  t.equal((await tryHold(await connect(drizzle(engine)), 'alice', { calls: 1 })).admitted, false)
})
