import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { listTypes } from '../../../src/store/catalogue/list-types.ts'
import { ensureUser } from '../../../src/store/charge/ensure-user.ts'
import type { Database } from '../../../src/store/database.ts'
import {
  exportUsage,
  listUsage,
  type UsageEntry,
  type UsageFilter,
  type UsagePage
} from '../../../src/store/operator/list-usage.ts'
import { both } from '../../fixtures/both.ts'

const onBoth = await both(t)

/** Writes rows of amount 0, which move no counter, three at each instant; their number is in the metadata. */
async function log(db: Database, userId: string, count: number, from = 0): Promise<void> {
  await declareTypes(db, { calls: { limit: 10, period: 'never' } })
  await ensureUser(db, userId)
  const [type] = await listTypes(db)
  await db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, endpoint, metadata, created_at)
     SELECT $1, $2::int, 0, '/a', jsonb_build_object('n', i), l.period_start + (i / 3) * interval '1 millisecond'
       FROM generate_series($3::int, $3::int + $4::int - 1) i, quota_limits l WHERE l.user_id = $1`,
    [userId, type!.id, from, count]
  )
}

async function all(db: Database, filter: UsageFilter = {}, page: Partial<UsagePage> = {}): Promise<UsageEntry[]> {
  const rows: UsageEntry[] = []
  for await (const batch of exportUsage(db, filter, page)) rows.push(...batch)
  return rows
}

const numbers = (rows: readonly UsageEntry[]): number[] => rows.map(({ metadata }) => JSON.parse(metadata).n)

onBoth('exports every row once, in the order of the list, however many there are', async (t, db) => {
  t.strictSame(await all(db), [])
  await log(db, 'alice', 2500)
  await log(db, 'bob', 1)
  const rows = await all(db, { userId: 'alice' })
  t.strictSame(
    numbers(rows).sort((a, b) => a - b),
    Array.from({ length: 2500 }, (_, i) => i)
  )
  t.strictSame(rows.slice(0, 700), await listUsage(db, { userId: 'alice' }, { limit: 700 }))
  t.equal((await all(db)).length, 2501)
  t.equal((await all(db, { endpoint: '/b' })).length, 0)
})

onBoth('exports full batches, up to a limit, and from a position or an offset on', async (t, db) => {
  await log(db, 'alice', 2000)
  const whole = await all(db)
  t.equal(whole.length, 2000)
  t.strictSame(await all(db, {}, { limit: 1500 }), whole.slice(0, 1500))
  t.strictSame(await all(db, {}, { limit: 1000, offset: 3 }), whole.slice(3, 1003))
  t.strictSame(await all(db, {}, { after: whole[99] }), whole.slice(100))
  t.strictSame(await all(db, {}, { offset: 1990 }), whole.slice(1990))
})

onBoth('an export is not disturbed by rows that are written while it is read', async (t, db) => {
  await log(db, 'alice', 2500)
  const seen: number[] = []
  for await (const batch of exportUsage(db, {}, {})) {
    seen.push(...numbers(batch))
    await log(db, 'alice', 100, 1_000_000 + seen.length)
  }
  t.strictSame(
    seen.sort((a, b) => a - b),
    Array.from({ length: 2500 }, (_, i) => i)
  )
})

onBoth('exports at most 1000 rows at a time, and leaves no transaction open when the reader stops', async (t, db) => {
  await log(db, 'alice', 3000)
  for await (const batch of exportUsage(db, {}, {})) {
    t.ok(batch.length <= 1000, 'a batch has at most 1000 rows')
    break
  }
  if (db.kind === 'embedded') return
  const busy = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
  // The server learns of the closed connection a moment later.
  for (let i = 0; i < 100 && (await db.query(busy)).length > 0; i++)
    await new Promise(resolve => setTimeout(resolve, 20))
  t.strictSame([...(await db.query(busy))], [])
})

onBoth('on a connection of our own an export is the log as it was at one moment', async (t, db) => {
  await log(db, 'alice', 2500)
  const seen: number[] = []
  for await (const batch of exportUsage(db, {}, {})) {
    seen.push(...numbers(batch))
    await db.query('DELETE FROM usage_logs')
  }
  if (db.stream === undefined) t.ok(seen.length < 2500, 'elsewhere each batch is of its own moment')
  else t.equal(seen.length, 2500)
})
