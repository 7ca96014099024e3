// In a process of its own: while the engine makes its directory nothing else is done in it, and whoever waits for a server would give up.
import { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/pglite'
import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { connect } from '../../../src/store/connection/connect.ts'
import { tryHold } from '../../fixtures/charges.ts'

t.test("an application's own PGlite has the tables made: no command reaches it", async t => {
  const engine = new PGlite()
  t.teardown(() => engine.close())
  const db = await connect(drizzle(engine))
  await declareTypes(db, { calls: { limit: 1 } })
  t.equal((await tryHold(db, 'alice', { calls: 1 })).admitted, true)
  await db.close()
  t.equal((await tryHold(await connect(drizzle(engine)), 'alice', { calls: 1 })).admitted, false)
})
