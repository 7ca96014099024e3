import t from 'tap'
import { v7 } from 'uuid'
import { connect } from '../../src/store/connect.ts'
import { declareTypes } from '../../src/store/declare-types.ts'
import { listTypes } from '../../src/store/list-types.ts'
import { reserve } from '../../src/store/reserve.ts'
import { server } from '../fixtures/database.ts'

t.test('admits exactly the limit of 1 000 reservations at once, a user seen for the first time', async t => {
  const pg = await server(t)
  const db = await connect({ url: await pg.migrated(), max: 50 })
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 100 } })
  const [type] = await listTypes(db)
  const outcomes = await Promise.all(
    Array.from({ length: 1000 }, () => reserve(db, { userId: 'alice', charges: [{ id: v7(), typeId: type!.id, type: 'calls', amount: 1 }], leaseMs: 60_000 }))
  )
  t.equal(outcomes.filter(o => o.admitted).length, 100)
})
