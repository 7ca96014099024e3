import t from 'tap'
import { connect } from '../../src/store/connect.ts'
import { declareTypes } from '../../src/store/declare-types.ts'
import { listTypes } from '../../src/store/list-types.ts'
import { server } from '../fixtures/database.ts'
import { deadlocks } from '../fixtures/lock-waits.ts'
import { children } from '../fixtures/processes.ts'

const pg = await server(t)

t.test(
  'five processes that migrate an empty database at once: each migration is applied once, and none fails',
  async t => {
    const migrators = await children(t, 5)
    for (let round = 0; round < 3; round++) {
      const url = await pg.empty()
      const answers = await Promise.all(migrators.map(each => each.ask({ do: 'migrate', url })))
      t.strictSame(
        answers.filter(answer => answer.code !== undefined),
        []
      )
      const db = await connect(url)
      const rows = await db.query('SELECT hash FROM quota_migrations')
      t.equal(
        answers.reduce((sum, answer) => sum + Number(answer.value), 0),
        rows.length
      )
      await db.close()
    }
  }
)

t.test('twenty that declare the same types at once keep one row each', async t => {
  const db = await connect({ url: await pg.migrated(), max: 20 })
  t.teardown(() => db.close())
  const one = { a: { limit: 1 }, b: { limit: 2 }, c: { limit: 3, kind: 'level' } } as const
  const other = { c: one.c, b: one.b, a: one.a }
  await Promise.all(Array.from({ length: 20 }, (_, i) => declareTypes(db, i % 2 ? one : other)))
  t.strictSame(
    (await listTypes(db)).map(type => [type.key, type.defaultLimit]),
    [
      ['a', 1],
      ['b', 2],
      ['c', 3]
    ]
  )
  t.equal(await deadlocks(db), 0)
})
