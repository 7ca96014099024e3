import { setTimeout as sleep } from 'node:timers/promises'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import postgres from 'postgres'
import t from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { listTypes } from '../../src/store/catalogue/list-types.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { MIGRATIONS_FOLDER, migrate } from '../../src/store/migration/migrate.ts'
import { server } from '../fixtures/database.ts'
import { deadlocks, untilWaiting } from '../fixtures/lock-waits.ts'
import { children } from '../fixtures/processes.ts'

const pg = await server(t)

t.test(
  'if five processes migrate an empty database at once, each migration is applied once and no process fails',
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

t.test('a migration that has to wait for a table blocks nobody else, and is applied once it gets it', async t => {
  const url = await pg.migrated()
  const [db, migrating] = await Promise.all([connect(url), connect(url)])
  const other = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => Promise.all([db.close(), migrating.close(), other.end()]))
  const [last] = readMigrationFiles({ migrationsFolder: MIGRATIONS_FOLDER }).slice(5)
  await db.query('DELETE FROM quota_migrations WHERE hash = $1', [last!.hash])
  await db.query(
    `ALTER TABLE quota_reservations ADD CONSTRAINT quota_reservations_counter_fk FOREIGN KEY (user_id, quota_type_id)
     REFERENCES quota_limits (user_id, quota_type_id) ON DELETE CASCADE`
  )
  let applied: Promise<number> | undefined
  await other.begin(async sql => {
    await sql`SELECT 1 FROM quota_limits`
    applied = migrate(migrating)
    await untilWaiting(db)
    for (let i = 0; i < 5; i++) {
      await db.query('UPDATE quota_limits SET updated_at = now()')
      await sleep(50)
    }
  })
  t.equal(await applied, 1)
  t.equal(await deadlocks(db), 0)
})

t.test('twenty simultaneous declarations of the same types leave one row per type', async t => {
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
