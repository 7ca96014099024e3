import t from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { charge } from '../../../src/store/charge/charge.ts'
import { open } from '../../../src/store/connection/connect.ts'
import type { Database } from '../../../src/store/database.ts'
import {
  type LogPosition,
  listUsage,
  type UsageEntry,
  type UsageFilter
} from '../../../src/store/operator/list-usage.ts'
import { both } from '../../fixtures/both.ts'
import { wanted } from '../../fixtures/charges.ts'
import { server } from '../../fixtures/database.ts'

const onBoth = await both(t)
const pg = await server(t)
const minute = (n: number) => new Date(Date.UTC(2026, 2, 10, 12, n))

async function log(db: Database, userId: string, type: string, amount: number, at: Date, endpoint = '/a') {
  const [want] = await wanted(db, { [type]: amount })
  await charge(db, { userId, charges: [{ ...want!, id: v7() }], at, endpoint, metadata: {}, idempotencyKey: null })
}

const amounts = async (db: Database, filter: UsageFilter, page: Parameters<typeof listUsage>[2] = { limit: 100 }) =>
  (await listUsage(db, filter, page)).map(entry => entry.amount)

onBoth('lists the newest first, and rows of one instant by descending id', async (t, db) => {
  await declareTypes(db, { calls: { limit: -1 } })
  for (const n of [1, 3, 2]) await log(db, 'alice', 'calls', n, minute(n))
  t.strictSame(await amounts(db, {}), [3, 2, 1])
  for (const n of [10, 11, 12]) await log(db, 'bob', 'calls', n, minute(9))
  const once = await listUsage(db, {}, { limit: 100 })
  const instant = once.slice(0, 3).map(entry => entry.id)
  t.strictSame(instant, [...instant].sort().reverse())
})

onBoth('filters by user, type, endpoint and time: from is included, until is not', async (t, db) => {
  await declareTypes(db, { a: { limit: -1 }, b: { limit: -1 } })
  await log(db, 'alice', 'a', 1, minute(1))
  await log(db, 'alice', 'b', 2, minute(2), '/b')
  await log(db, 'bob', 'a', 3, minute(3))
  await log(db, "o'%_", 'a', 4, minute(4))
  t.strictSame(await amounts(db, { userId: 'alice' }), [2, 1])
  t.strictSame(await amounts(db, { userId: "o'%_" }), [4])
  t.strictSame(await amounts(db, { userId: '%' }), [])
  const a = (await wanted(db, { a: 1 }))[0]!.typeId
  t.strictSame(await amounts(db, { typeId: a }), [4, 3, 1])
  t.strictSame(await amounts(db, { endpoint: '/b' }), [2])
  t.strictSame(await amounts(db, { from: minute(2), until: minute(4) }), [3, 2])
  t.strictSame(await amounts(db, { userId: 'alice', typeId: a, endpoint: '/a', from: minute(1) }), [1])
})

onBoth('pages by position show every row once, even while newer rows are added', async (t, db) => {
  await declareTypes(db, { calls: { limit: -1 } })
  for (let n = 0; n < 10; n++) await log(db, 'alice', 'calls', n, minute(n >> 2))
  const seen: UsageEntry[] = []
  let after: LogPosition | undefined
  for (;;) {
    const page = await listUsage(db, { userId: 'alice' }, { limit: 3, after })
    if (page.length === 0) break
    seen.push(...page)
    after = page.at(-1)
    await log(db, 'alice', 'calls', 99, minute(30))
  }
  t.strictSame(
    seen.map(entry => entry.amount).sort((a, b) => a - b),
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
  )
})

onBoth('an offset skips that many rows', async (t, db) => {
  await declareTypes(db, { calls: { limit: -1 } })
  for (let n = 0; n < 5; n++) await log(db, 'alice', 'calls', n, minute(n))
  t.strictSame(await amounts(db, {}, { limit: 2, offset: 1 }), [3, 2])
  t.strictSame(await amounts(db, {}, { limit: 2, offset: 4 }), [0])
  t.strictSame(await amounts(db, {}, { limit: 2, offset: 5 }), [])
})

t.test('a page of a user who has most of the log reads little more than its own rows, even the tenth time', async t => {
  const db = await open({ url: await pg.migrated(), max: 1 })
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: -1 } })
  await db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
     SELECT CASE WHEN n % 2 = 0 THEN 'user-' || n ELSE 'most' END, (SELECT id FROM quota_types), 1, now() - n * interval '1 second'
       FROM generate_series(1, 40000) n ORDER BY random()`
  )
  await db.query('ANALYZE usage_logs')
  const blocks = async () => {
    await db.query('SELECT pg_stat_force_next_flush()')
    const [row] = await db.query<{ n: number }>(
      "SELECT heap_blks_read + heap_blks_hit AS n FROM pg_statio_user_tables WHERE relname = 'usage_logs'"
    )
    return Number(row!.n)
  }
  const [last] = await listUsage(db, { userId: 'most' }, { limit: 1, offset: 100 })
  for (const after of [undefined, last])
    for (let turn = 1; turn <= 10; turn++) {
      const before = await blocks()
      t.equal((await listUsage(db, { userId: 'most' }, { limit: 100, after })).length, 100)
      const read = (await blocks()) - before
      t.ok(read <= 200, `${read} blocks on read ${turn}`)
    }
})
