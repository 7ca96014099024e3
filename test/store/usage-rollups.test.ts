// Statistics from what is added up are those of the log, whatever is done to the log meanwhile. Days of 'UTC' are added up here, those of
// 'Etc/UTC' never: what one says the other must say.
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { open } from '../../src/store/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { declareTypes } from '../../src/store/declare-types.ts'
import { deleteUser } from '../../src/store/delete-user.ts'
import { forgetMarked, lookAround, pruneRollups, rollUsage, SafeTime } from '../../src/store/rollup/roll-usage.ts'
import { watchUsage } from '../../src/store/rollup/watch-usage.ts'
import { viewStatistics } from '../../src/store/view-statistics.ts'
import { both } from '../fixtures/both.ts'
import { server } from '../fixtures/database.ts'

const onBothWith = await both(t)
const onBoth = (title: string, body: (t: Test, db: Database) => Promise<unknown>) =>
  onBothWith(title, body, { logAlone: true })
const DAYS = 4

async function begin(db: Database): Promise<void> {
  await declareTypes(db, { calls: { limit: -1, period: 'never' }, others: { limit: -1, period: 'never' } })
  // Without a counter, which would have to agree with the log.
  await db.query("INSERT INTO quota_users (id) VALUES ('user-0')")
}

/** Charges of these users and both types, all over the last days, by a statement of nobody's. */
const scatter = (db: Database, rows: number, users = 7) =>
  db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
     SELECT 'user-' || (n % $2::int), t.id, n % 10, now() - (n * $3::float8 / $1::int) * interval '1 day'
       FROM generate_series(1, $1::int) n CROSS JOIN quota_types t`,
    [rows, users, DAYS]
  )

async function rolled(db: Database, zone = 'UTC'): Promise<void> {
  const safe = new SafeTime()
  await lookAround(db, safe)
  await lookAround(db, safe)
  await forgetMarked(db)
  await rollUsage(db, zone, safe)
}

async function sameAsLog(t: Test, db: Database, what: string, zones: [string, string] = ['UTC', 'Etc/UTC']) {
  const types = await db.query<{ id: number; type_key: string }>('SELECT id, type_key FROM quota_types ORDER BY id')
  for (const { id: typeId, type_key } of types)
    for (const interval of ['day', 'hour'] as const) {
      const [sums, log] = await Promise.all(
        zones.map(timeZone => viewStatistics(db, { typeId, days: DAYS + 1, interval, timeZone, topUsers: 3 }))
      )
      t.strictSame(sums, log, `${what}: ${type_key} by ${interval}`)
    }
}

const countOf = async (db: Database, table: string): Promise<number> =>
  Number((await db.query<{ n: number }>(`SELECT count(*) AS n FROM ${table}`))[0]!.n)

onBoth('says what the log says, before and after it is added up, and does not read it twice', async (t, db) => {
  await begin(db)
  await scatter(db, 3_000)
  await sameAsLog(t, db, 'before')
  await rolled(db)
  t.ok((await countOf(db, 'quota_usage_days')) >= DAYS * 7)
  await sameAsLog(t, db, 'after')
  // What is in the log without a mark is not seen: proof that the sums are read.
  await db.query('ALTER TABLE usage_logs DISABLE TRIGGER quota_usage_deleted')
  await db.query("DELETE FROM usage_logs WHERE created_at < now() - interval '36 hours'")
  await db.query('ALTER TABLE usage_logs ENABLE TRIGGER quota_usage_deleted')
  const { id: typeId } = (await db.query<{ id: number }>('SELECT id FROM quota_types'))[0]!
  const view = (timeZone: string) =>
    viewStatistics(db, { typeId, days: DAYS + 1, interval: 'day', timeZone, topUsers: 3 })
  const calls = ({ series }: Awaited<ReturnType<typeof view>>) => series.reduce((sum, piece) => sum + piece.calls, 0)
  t.equal(calls(await view('UTC')), 3_000)
  t.ok(calls(await view('Etc/UTC')) < 1_500)
})

for (const [what, statement] of Object.entries({
  'a late charge':
    "INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at) SELECT 'late', id, 50, now() - interval '30 hours' FROM quota_types",
  'a charge of now':
    "INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at) SELECT 'fresh', id, 50, now() FROM quota_types",
  'rows that are deleted': "DELETE FROM usage_logs WHERE user_id = 'user-3'",
  'amounts that are changed':
    "UPDATE usage_logs SET amount = amount + 1 WHERE created_at < now() - interval '50 hours'",
  'rows that are moved to another day': "UPDATE usage_logs SET created_at = created_at - interval '1 day'",
  'an emptied log': 'TRUNCATE usage_logs'
}))
  onBoth(`says what the log says after ${what}`, async (t, db) => {
    await begin(db)
    await scatter(db, 1_000)
    await rolled(db)
    await db.query(statement)
    await sameAsLog(t, db, 'marked')
    await rolled(db)
    t.equal(await countOf(db, 'quota_usage_marks'), 0)
    await sameAsLog(t, db, 'added up anew')
  })

onBoth('forgets a user who is deleted', async (t, db) => {
  await begin(db)
  await scatter(db, 500)
  await rolled(db)
  t.ok(await deleteUser(db, 'user-0', { actor: 'test', reason: null, requestId: null }))
  await sameAsLog(t, db, 'deleted')
  const names = await db.query<{ user_id: string }>('SELECT DISTINCT user_id FROM quota_usage_days')
  t.notOk(names.some(({ user_id }) => user_id === 'user-0'))
})

onBoth('adds up in a zone half an hour off, and one day after the other', async (t, db) => {
  await begin(db)
  await scatter(db, 2_000)
  await rolled(db, 'Asia/Kolkata')
  await sameAsLog(t, db, 'India', ['Asia/Kolkata', 'Asia/Calcutta'])
  const stopping = { aborted: true }
  const safe = new SafeTime()
  await lookAround(db, safe)
  await lookAround(db, safe)
  await rollUsage(db, 'Asia/Tokyo', safe, stopping)
  t.equal(await countOf(db, "quota_rollups WHERE time_zone = 'Asia/Tokyo'"), 0)
})

onBoth('reads the log where there are no triggers, and makes them', async (t, db) => {
  await begin(db)
  await scatter(db, 500)
  await rolled(db)
  await db.query('DROP TRIGGER quota_usage_deleted ON usage_logs')
  await db.query("DELETE FROM usage_logs WHERE user_id = 'user-1'")
  await sameAsLog(t, db, 'not watched')
  await watchUsage(db)
  await sameAsLog(t, db, 'watched again')
  await rolled(db)
  t.ok((await countOf(db, 'quota_rollups')) > 0)
  await sameAsLog(t, db, 'added up anew')
})

onBoth('forgets what no statistic looks back to', async (t, db) => {
  await begin(db)
  await scatter(db, 100)
  await rolled(db)
  const days = await countOf(db, 'quota_rollups')
  await db.query(
    "INSERT INTO quota_rollups VALUES ('UTC', now() - interval '400 days', now() - interval '399 days', now() - interval '399 days')"
  )
  await db.query("INSERT INTO quota_usage_days VALUES ('UTC', now() - interval '400 days', 1, 'old', 1, 1)")
  await pruneRollups(db)
  t.equal(await countOf(db, 'quota_rollups'), days)
})

const pg = await server(t)

t.test('a charge whose transaction takes long is not lost', async t => {
  const url = await pg.migrated()
  const db = await open(url)
  const slow = postgres(url, { max: 1 })
  t.teardown(async () => {
    await slow.end()
    await db.close()
  })
  await begin(db)
  await scatter(db, 300)
  const safe = new SafeTime()
  let commit = () => {}
  let inserted = () => {}
  const isInserted = new Promise<void>(resolve => {
    inserted = resolve
  })
  const done = slow.begin(async sql => {
    await sql`INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at) SELECT 'slow', id, 7, now() FROM quota_types`
    inserted()
    await new Promise<void>(resolve => {
      commit = resolve
    })
  })
  await isInserted
  for (let turn = 0; turn < 4; turn++) await lookAround(db, safe)
  t.equal(safe.until, Number.NEGATIVE_INFINITY, 'nothing is taken for all there is while it writes')
  commit()
  await done
  await lookAround(db, safe)
  t.ok(Date.now() - safe.until < 25 * 60_000)
})

t.test('while the log is written, deleted and added up at once', async t => {
  const db = await open(await pg.migrated())
  t.teardown(() => db.close())
  await begin(db)
  await scatter(db, 1_000)
  let isOver = false
  const write = async () => {
    while (!isOver) {
      await scatter(db, 20, 3)
      await db.query(
        'DELETE FROM usage_logs WHERE (user_id, id) IN (SELECT user_id, id FROM usage_logs ORDER BY md5(id::text) LIMIT 5)'
      )
      await sleep(2)
    }
  }
  const roll = async () => {
    for (let turn = 0; turn < 30; turn++) await rolled(db)
    isOver = true
  }
  await Promise.all([write(), roll(), roll()])
  await sameAsLog(t, db, 'as it was left')
  await rolled(db)
  await sameAsLog(t, db, 'at the end')
})
