// Statistics from rollups equal those from the log, whatever is done to the log meanwhile. Days of 'UTC' are rolled up here, and those of
// 'Etc/UTC' never are: both must give the same statistics.
import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { FST_QUOTA_STORE } from '../../../src/quota/errors.ts'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { voidCharges } from '../../../src/store/charge/void.ts'
import { open } from '../../../src/store/connection/connect.ts'
import type { Database, Values } from '../../../src/store/database.ts'
import { Reservations } from '../../../src/store/group/reservations.ts'
import { deleteUser } from '../../../src/store/operator/delete-user.ts'
import { viewStatistics } from '../../../src/store/operator/view-statistics.ts'
import { alone } from '../../../src/store/rollup/alone.ts'
import { forgetMarked, forgetRollups, pruneRollups } from '../../../src/store/rollup/forget-rollups.ts'
import { rollUsage } from '../../../src/store/rollup/roll-usage.ts'
import { rollWindow } from '../../../src/store/rollup/roll-window.ts'
import { lookAround, SafeTime } from '../../../src/store/rollup/safe-time.ts'
import { pruneUsage } from '../../../src/store/upkeep/prune-usage.ts'
import { UsageRollups } from '../../../src/upkeep/usage-rollups.ts'
import { both } from '../../fixtures/both.ts'
import { costing, hold } from '../../fixtures/charges.ts'
import { server } from '../../fixtures/database.ts'
import { inTransaction } from '../../fixtures/in-transaction.ts'
import { untilWaiting } from '../../fixtures/lock-waits.ts'

const onBothWith = await both(t)
const pg = await server(t)
const onBoth = (title: string, body: (t: Test, db: Database) => Promise<unknown>) =>
  onBothWith(title, body, { logAlone: true })
const DAYS = 4

async function begin(db: Database): Promise<void> {
  await declareTypes(db, { calls: { limit: -1, period: 'never' }, others: { limit: -1, period: 'never' } })
  // Without a counter, which would have to agree with the log.
  await db.query("INSERT INTO quota_users (id) VALUES ('user-0')")
}

/** Charges of these users and both types, all over the last days, written past all counters. */
const scatter = (db: Database, rows: number, users = 7) =>
  db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
     SELECT 'user-' || (n % $2::int), t.id, n % 10, now() - (n * $3::float8 / $1::int) * interval '1 day'
       FROM generate_series(1, $1::int) n CROSS JOIN quota_types t`,
    [rows, users, DAYS]
  )

/** Rolls up every day, however few rows it has. */
async function rolled(db: Database, zone = 'UTC'): Promise<void> {
  const safe = new SafeTime()
  await lookAround(db, safe)
  await lookAround(db, safe)
  await forgetMarked(db)
  if (!(await rollUsage(db, zone, safe, { fewest: 1 }))) throw new Error('another process is rolling up')
  await rollWindow(db, zone, DAYS + 1, safe)
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

onBoth('statistics are the same before and after the rollup, which is then read instead of the log', async (t, db) => {
  await begin(db)
  await scatter(db, 3_000)
  await sameAsLog(t, db, 'before')
  await rolled(db)
  t.ok((await countOf(db, 'quota_usage_days')) >= DAYS * 7)
  t.equal(
    await countOf(db, `quota_usage_days WHERE time_zone = 'UTC/${DAYS + 1} days'`),
    2 * 7,
    'one row per user and type for all days together'
  )
  await sameAsLog(t, db, 'after')
  // What is deleted without a mark still counts, which proves that the rollups are read.
  await db.query("DELETE FROM usage_logs WHERE created_at < now() - interval '36 hours'")
  const { id: typeId } = (await db.query<{ id: number }>('SELECT id FROM quota_types'))[0]!
  const view = (timeZone: string) =>
    viewStatistics(db, { typeId, days: DAYS + 1, interval: 'day', timeZone, topUsers: 3 })
  const calls = ({ series }: Awaited<ReturnType<typeof view>>) => series.reduce((sum, piece) => sum + piece.calls, 0)
  t.equal(calls(await view('UTC')), 3_000)
  t.ok(calls(await view('Etc/UTC')) < 1_500)
  await forgetRollups(db)
  await sameAsLog(t, db, 'after the rollups are deleted')
  await rolled(db)
  await db.query('DELETE FROM quota_rollups')
  await rolled(db)
  await sameAsLog(t, db, 'rolled up again after only quota_rollups was emptied')
})

const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000)
const by = { actor: 'test', reason: null, requestId: null }

/** Held at that time, and charged now. */
async function use(db: Database, userId: string, at?: Date) {
  const held = await hold(db, userId, { calls: 50, others: 60 }, { at, leaseMs: 1e9 })
  await commit(db, userId, costing(held, { calls: 40 }), null)
  return held
}

const changes: Record<string, (db: Database) => Promise<unknown>> = {
  'a late charge': db => use(db, 'late', hoursAgo(30)),
  'late charges of the first moment of a day and of the last of another': async db => {
    const midnight = new Date().setUTCHours(-48, 0, 0, 0)
    await use(db, 'late', new Date(midnight))
    await use(db, 'later', new Date(midnight - 86_400_001))
  },
  'a late charge by the statement that requests share': async db => {
    const [held] = await hold(db, 'late', { calls: 50 }, { at: hoursAgo(30), leaseMs: 1e9 })
    await new Reservations(db, 5_000).commit('late', costing([held!]), null)
  },
  'a late charge that is undone': async db => {
    const held = await use(db, 'late', hoursAgo(30))
    await rolled(db)
    await voidCharges(db, 'late', held)
  },
  'the deletion of a user whose late charge was undone': async db => {
    const held = await use(db, 'late', hoursAgo(30))
    await rolled(db)
    await voidCharges(db, 'late', held)
    await deleteUser(db, 'late', by)
  },
  'a charge made now': db => use(db, 'fresh'),
  'a user is deleted': db => deleteUser(db, 'user-0', by),
  'the oldest rows are pruned': db => pruneUsage(db, hoursAgo(50))
}

for (const [what, change] of Object.entries(changes))
  onBoth(`statistics equal those from the log after ${what}`, async (t, db) => {
    await begin(db)
    await scatter(db, 1_000)
    await rolled(db)
    const before = await countOf(db, 'usage_logs')
    await change(db)
    t.not(await countOf(db, 'usage_logs'), before + (what.endsWith('undone') ? 1 : 0))
    await sameAsLog(t, db, 'changed')
    await rolled(db)
    t.equal(await countOf(db, 'quota_usage_marks'), 0)
    await sameAsLog(t, db, 'rolled up again')
    const names = await db.query<{ user_id: string }>("SELECT user_id FROM quota_usage_days WHERE user_id = 'user-0'")
    t.equal(names.length === 0, what === 'a user is deleted')
  })

/** As if all that was written before this instant were visible. */
function safeUntil(at: Date): SafeTime {
  const safe = new SafeTime()
  for (const transaction of [1n, 3n])
    safe.see({ at: at.getTime() + 17 * 60_000, oldest: transaction, newest: transaction + 1n })
  return safe
}

onBoth('the window of several days is extended hour by hour, and equals the log', async (t, db) => {
  await begin(db)
  await scatter(db, 2_000)
  const midnight = new Date()
  midnight.setUTCHours(-24, 0, 0, 0)
  const oClock = (hour: number) => new Date(midnight.getTime() + hour * 3_600_000)
  const use = (userId: string, hour: number, amount: number) =>
    db.query(
      "INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at) SELECT $1, id, $2::bigint, $3::timestamptz FROM quota_types WHERE type_key = 'calls'",
      [userId, amount, oClock(hour).toISOString()]
    )
  for (const [userId, hour, amount] of [
    ['before', 9, 5_000],
    ['before', 14, -300],
    ['between', 14, 4_700],
    ['later', 22, 4_700],
    ['before', 23, 1]
  ] as const)
    await use(userId, hour, amount)
  const [type] = await db.query<{ id: number }>("SELECT id FROM quota_types WHERE type_key = 'calls'")
  const view = (timeZone: string, interval: 'day' | 'hour') =>
    viewStatistics(db, { typeId: type!.id, days: DAYS, interval, timeZone, topUsers: 2, at: oClock(12) })
  const same = async (what: string) => {
    for (const interval of ['day', 'hour'] as const)
      t.strictSame(await view('UTC', interval), await view('Etc/UTC', interval), `${what}, by ${interval}`)
  }
  const window = async () => {
    const [row] = await db.query<{ until: string }>(
      `SELECT rolled_until AT TIME ZONE 'UTC' || '' AS until FROM quota_rollups WHERE time_zone = 'UTC/${DAYS} days'`
    )
    return row?.until.slice(11, 16)
  }
  const roll = async (hour: number) => {
    t.ok(await rollUsage(db, 'UTC', safeUntil(oClock(hour)), { fewest: 1 }))
    t.ok(await rollWindow(db, 'UTC', DAYS, safeUntil(oClock(hour))))
  }
  await roll(10)
  t.equal(await window(), '10:00')
  await same('at ten')
  // Without a mark the log is not read again, so that this wrong sum stays.
  await db.query(
    `UPDATE quota_usage_days SET usage = usage + 50000 WHERE user_id = 'before' AND time_zone = 'UTC/${DAYS} days'`
  )
  t.strictSame((await view('UTC', 'day')).topUsers, [
    { userId: 'before', usage: 54_701, calls: 3 },
    { userId: 'between', usage: 4_700, calls: 1 }
  ])
  await rollUsage(db, 'UTC', safeUntil(oClock(15)), { fewest: 1 })
  await same('while the days are ahead of the window')
  await roll(15)
  t.equal(await window(), '15:00')
  const { topUsers, uniqueUsers } = await view('UTC', 'hour')
  t.strictSame(topUsers.slice(0, 1), [{ userId: 'before', usage: 54_701, calls: 3 }])
  t.equal(uniqueUsers, 7 + 3)
  await db.query(
    `UPDATE quota_usage_days SET usage = usage - 50000 WHERE user_id = 'before' AND time_zone = 'UTC/${DAYS} days'`
  )
  await same('at three')
  await roll(23)
  t.equal(await window(), '23:00')
  await same('at eleven, when two users have used the same')
  await roll(24)
  await same('at midnight')
})

onBoth('rolls up a time zone half an hour off, and nothing once the signal is aborted', async (t, db) => {
  await begin(db)
  await scatter(db, 2_000)
  await rolled(db, 'Asia/Kolkata')
  await sameAsLog(t, db, 'India', ['Asia/Kolkata', 'Asia/Calcutta'])
  // A quarter of an hour after midnight in India.
  await use(db, 'late', new Date(new Date().setUTCHours(-48 + 18, 45, 0, 0)))
  await sameAsLog(t, db, 'India, after a late charge', ['Asia/Kolkata', 'Asia/Calcutta'])
  const safe = new SafeTime()
  await lookAround(db, safe)
  await lookAround(db, safe)
  t.notOk(await rollUsage(db, 'Asia/Tokyo', safe, { signal: { aborted: true }, fewest: 1 }))
  t.equal(await countOf(db, "quota_rollups WHERE time_zone = 'Asia/Tokyo'"), 0)
})

onBoth('rolls up the days around a clock change of half an hour', async (t, db) => {
  await begin(db)
  await db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
     SELECT 'user-' || n % 5, id, n, timestamptz '2026-04-03 12:00:00Z' + n * interval '7 minutes' FROM generate_series(1, 700) n CROSS JOIN quota_types`
  )
  const at = new Date('2026-04-07T10:00:00Z')
  t.ok(await rollUsage(db, 'Australia/Lord_Howe', safeUntil(at), { fewest: 1 }))
  t.ok(await rollWindow(db, 'Australia/Lord_Howe', DAYS, safeUntil(at)))
  t.equal(await countOf(db, 'quota_rollups'), 5 + 1, 'five days, and a window of four')
  const { id: typeId } = (await db.query<{ id: number }>('SELECT id FROM quota_types'))[0]!
  for (const interval of ['day', 'hour'] as const) {
    const [sums, log] = await Promise.all(
      ['Australia/Lord_Howe', 'Australia/LHI'].map(timeZone =>
        viewStatistics(db, { typeId, days: DAYS, interval, timeZone, topUsers: 3, at })
      )
    )
    t.strictSame(sums, log, `by ${interval}`)
  }
})

onBoth('does not roll up days that have few rows', async (t, db) => {
  await begin(db)
  await scatter(db, 1_000)
  const safe = new SafeTime()
  await lookAround(db, safe)
  await lookAround(db, safe)
  t.ok(await rollUsage(db, 'UTC', safe))
  t.equal(await countOf(db, 'quota_rollups'), 0)
})

onBoth('deletes rollups that are too old for any statistics', async (t, db) => {
  await begin(db)
  await scatter(db, 100)
  await rolled(db)
  const days = await countOf(db, 'quota_rollups')
  await db.query(
    "INSERT INTO quota_rollups SELECT 'UTC', day, day + interval '1 day', day + interval '1 day' FROM (SELECT date_trunc('day', now(), 'UTC') - interval '400 days' AS day) d"
  )
  await db.query(
    "INSERT INTO quota_usage_days SELECT 'old', 1, 'UTC', day_start, 1, 1 FROM quota_rollups ORDER BY day_start LIMIT 1"
  )
  await db.query(
    "INSERT INTO quota_rollups SELECT 'UTC/57', day - interval '57 days', day, day FROM (SELECT date_trunc('day', now(), 'UTC') - interval '3 days' AS day) d"
  )
  await db.query(
    "INSERT INTO quota_usage_days SELECT 'old', 1, time_zone, day_start, 1, 1 FROM quota_rollups WHERE time_zone = 'UTC/57'"
  )
  const totals = await countOf(db, 'quota_usage_totals')
  await db.query(
    "INSERT INTO quota_usage_totals SELECT time_zone, 'day', day_start, 1, 1, 1, 1 FROM quota_usage_days WHERE user_id = 'old'"
  )
  await pruneRollups(db)
  t.equal(await countOf(db, 'quota_rollups'), days)
  t.equal(await countOf(db, 'quota_usage_totals'), totals)
  t.equal(await countOf(db, "quota_usage_days WHERE user_id = 'old'"), 0)
})

onBoth('replaces days cut by former rules of a time zone, and the window of the day before', async (t, db) => {
  await begin(db)
  await scatter(db, 1_000)
  await db.query(
    `INSERT INTO quota_rollups
     SELECT 'UTC', day, day + interval '1 day', day + interval '1 day'
       FROM (SELECT date_trunc('day', now(), 'UTC') - interval '47 hours' AS day) d`
  )
  await db.query(
    "INSERT INTO quota_usage_days SELECT 'former', t.id, 'UTC', day_start, 9, 9 FROM quota_rollups, quota_types t"
  )
  await db.query(
    "INSERT INTO quota_usage_totals SELECT 'UTC', 'day', day_start, t.id, 9, 9, 9 FROM quota_rollups, quota_types t"
  )
  const yesterday = safeUntil(hoursAgo(24))
  await rollUsage(db, 'UTC', yesterday, { fewest: 1 })
  await rollWindow(db, 'UTC', DAYS, yesterday)
  await rolled(db)
  await sameAsLog(t, db, 'cut by the present rules')
  t.equal(await countOf(db, "quota_usage_days WHERE user_id = 'former'"), 0)
  t.equal(await countOf(db, 'quota_usage_totals WHERE calls = 9 AND usage = 9 AND users = 9'), 0)
  const windows = () =>
    countOf(
      db,
      `quota_usage_days WHERE time_zone = 'UTC/${DAYS} days' AND quota_type_id IN (SELECT min(id) FROM quota_types)`
    )
  t.equal(await windows(), 7)
  await rollWindow(db, 'UTC', DAYS, safeUntil(new Date()))
  t.equal(await windows(), 7)
  t.equal(await countOf(db, `quota_rollups WHERE time_zone = 'UTC/${DAYS} days'`), 1)
})

onBoth('a process that another one overtakes adds nothing up twice', async (t, db) => {
  await begin(db)
  await scatter(db, 1_000)
  const early = new Date(new Date().setUTCHours(-20, 0, 0, 0))
  const overtaken: Database = Object.create(db, {
    query: {
      value: async (text: string, ...given: [Values]) => {
        const rows = await db.query(text, ...given)
        // Between reading what is rolled up already and adding to it.
        if (text.includes('FROM quota_rollups WHERE')) await rolled(db)
        return rows
      }
    }
  })
  t.ok(await rollUsage(overtaken, 'UTC', safeUntil(early), { fewest: 1 }))
  await rolled(db)
  await sameAsLog(t, db, 'overtaken')
})

t.test('a window that is ahead of a day with a mark is left as it is, and not added up twice', async t => {
  const db = await open(await pg.migrated())
  t.teardown(() => db.close())
  await begin(db)
  await scatter(db, 1_000)
  const oClock = (hour: number) => new Date(new Date().setUTCHours(hour - 24, 0, 0, 0))
  const roll = async (hour: number) => {
    await rollUsage(db, 'UTC', safeUntil(oClock(hour)), { fewest: 1 })
    t.ok(await rollWindow(db, 'UTC', DAYS, safeUntil(oClock(hour))))
  }
  await roll(10)
  await rollUsage(db, 'UTC', safeUntil(oClock(15)), { fewest: 1 })
  await use(db, 'late', oClock(12))
  await roll(15)
  await forgetMarked(db)
  await roll(15)
  const { id: typeId } = (await db.query<{ id: number }>('SELECT id FROM quota_types'))[0]!
  const [sums, log] = await Promise.all(
    ['UTC', 'Etc/UTC'].map(timeZone =>
      viewStatistics(db, { typeId, days: DAYS, interval: 'day', timeZone, topUsers: 9, at: oClock(16) })
    )
  )
  t.strictSame(sums, log)
})

t.test('a database that does not support rollups (0A000) is not asked again, and one that fails is', async t => {
  for (const [code, asked] of [
    ['0A000', 1],
    ['08006', 2]
  ] as const) {
    const errors: unknown[] = []
    const query = async () => Promise.reject(new FST_QUOTA_STORE('no', { cause: Object.assign(new Error(), { code }) }))
    const rollups = new UsageRollups({ query } as unknown as Database, error => errors.push(error))
    for (let turn = 0; turn < 2; turn++) await rollups.keep()
    t.equal(errors.length, asked, code)
  }
})

t.test('of nine time zones the one asked for longest ago is dropped, but never UTC', async t => {
  const db = await open(await pg.migrated())
  t.teardown(() => db.close())
  await begin(db)
  await db.query(
    "INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at) SELECT 'user-0', id, 1, now() - interval '3 days' FROM generate_series(1, 1000) CROSS JOIN quota_types"
  )
  const rollups = new UsageRollups(db, error => t.fail(String(error)))
  for (let hour = 1; hour <= 8; hour++) rollups.want(`Etc/GMT+${hour}`, 30)
  await rollups.keep()
  await rollups.keep()
  const zones = await db.query<{ name: string }>(
    "SELECT DISTINCT time_zone AS name FROM quota_rollups WHERE time_zone NOT LIKE '% days' ORDER BY 1"
  )
  t.strictSame(
    zones.map(({ name }) => name),
    [...[2, 3, 4, 5, 6, 7, 8].map(hour => `Etc/GMT+${hour}`), 'UTC']
  )
})

t.test('while one process rolls up, the others do nothing and return false', async t => {
  const db = await open(await pg.migrated())
  t.teardown(() => db.close())
  await begin(db)
  await scatter(db, 500)
  const safe = safeUntil(new Date())
  await rollUsage(db, 'UTC', safeUntil(hoursAgo(1)), { fewest: 1 })
  const days = await countOf(db, 'quota_rollups')
  await alone(db, async () => {
    t.notOk(await alone(db, async () => t.fail('two at once')))
    t.notOk(await rollUsage(db, 'Asia/Tokyo', safe, { fewest: 1 }))
    t.notOk(await rollWindow(db, 'UTC', DAYS, safe))
  })
  t.equal(await countOf(db, 'quota_rollups'), days)
})

t.test('deleting all rollups waits for a process that is rolling up, even past the lock_timeout', async t => {
  const url = await pg.migrated()
  const client = postgres(url, { max: 4, connection: { lock_timeout: 50 }, onnotice: () => {} })
  const db = await open(drizzle(client))
  t.teardown(() => client.end())
  await begin(db)
  await scatter(db, 500)
  let forgetting: Promise<void> | undefined
  await alone(db, async query => {
    forgetting = forgetRollups(db)
    await untilWaiting(db)
    await sleep(100)
    await query("INSERT INTO quota_rollups SELECT 'UTC', day, day, day FROM date_trunc('day', now()) AS day")
    await query("INSERT INTO quota_usage_totals SELECT 'UTC', 'day', now(), id, 1, 1, 1 FROM quota_types")
    await query("INSERT INTO quota_usage_days SELECT 'user-0', id, 'UTC', now(), 1, 1 FROM quota_types")
  })
  await forgetting
  for (const table of ['quota_rollups', 'quota_usage_totals', 'quota_usage_days']) t.equal(await countOf(db, table), 0)
})

t.test('whether a charge is late depends on when it is written, not on when its transaction began', async t => {
  const db = await open(await pg.migrated())
  t.teardown(() => db.close())
  await begin(db)
  const held = await hold(db, 'late', { calls: 1 }, { at: new Date(Date.now() - 15 * 60_000 + 150), leaseMs: 1e9 })
  await inTransaction(db, async inside => {
    await inside.query('SELECT 1')
    await sleep(200)
    await commit(inside, 'late', costing(held), null)
  })
  t.equal(await countOf(db, 'quota_usage_marks'), 1)
})

t.test('nothing counts as complete before a long transaction that writes a charge has ended', async t => {
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
  t.equal(safe.until, Number.NEGATIVE_INFINITY, 'nothing is complete while it writes')
  commit()
  await done
  await lookAround(db, safe)
  t.ok(Date.now() - safe.until < 25 * 60_000)
})

t.test('statistics stay consistent while charges come late, are undone and rolled up, then equal the log', async t => {
  const db = await open(await pg.migrated())
  t.teardown(() => db.close())
  await begin(db)
  await scatter(db, 1_000)
  let isOver = false
  const write = async (userId: string) => {
    for (let turn = 0; !isOver; turn++) {
      const held = await hold(db, userId, { calls: 1, others: 2 }, { at: hoursAgo((turn % 80) + 1), leaseMs: 1e9 })
      await commit(db, userId, costing(held, { calls: 3, others: 3 }), null)
      if (turn % 3 === 0) await voidCharges(db, userId, held)
      await sleep(1)
    }
  }
  const roll = async () => {
    for (let turn = 0; turn < 30; turn++) {
      const safe = new SafeTime()
      await lookAround(db, safe)
      await lookAround(db, safe)
      await forgetMarked(db)
      await rollUsage(db, 'UTC', safe, { fewest: 1 })
      if (Number.isFinite(safe.until)) await rollWindow(db, 'UTC', DAYS + 1, safe)
      await sleep(5)
    }
    isOver = true
  }
  // Compares one answer with itself: two statements would see different moments.
  const look = async () => {
    const [type] = await db.query<{ id: number }>('SELECT id FROM quota_types')
    while (!isOver) {
      const { series, topUsers } = await viewStatistics(db, {
        typeId: type!.id,
        days: 5,
        interval: 'day',
        timeZone: 'UTC',
        topUsers: 100
      })
      const sum = (parts: readonly { usage: number }[]) => parts.reduce((total, { usage }) => total + usage, 0)
      t.equal(sum(series), sum(topUsers), 'the sums by day and by user are equal')
      await sleep(20)
    }
  }
  await Promise.all([write('alice'), write('bob'), roll(), roll(), look()])
  await sameAsLog(t, db, 'before the last rollup')
  await rolled(db)
  await sameAsLog(t, db, 'after the last rollup')
})

t.test('the upkeep rolls up the time zones and windows that were asked for, and reports what fails', async t => {
  const db = await open(await pg.migrated())
  t.teardown(() => db.close().catch(() => {}))
  await begin(db)
  await scatter(db, 6_000)
  const errors: unknown[] = []
  const rollups = new UsageRollups(db, error => errors.push(error))
  rollups.want('Europe/Berlin', DAYS + 1)
  await rollups.keep()
  await rollups.keep()
  const names = await db.query<{ name: string }>('SELECT DISTINCT time_zone AS name FROM quota_rollups ORDER BY 1')
  t.strictSame(
    names.map(({ name }) => name),
    ['Europe/Berlin', `Europe/Berlin/${DAYS + 1} days`, 'UTC', 'UTC/30 days']
  )
  await sameAsLog(t, db, 'Berlin', ['Europe/Berlin', 'Europe/Paris'])
  const [held] = await hold(db, 'late', { calls: 50 }, { at: hoursAgo(30), leaseMs: 1e9 })
  await commit(db, 'late', costing([held!], { calls: 40 }), null)
  await rollups.keep()
  t.equal(await countOf(db, 'quota_usage_marks'), 0)
  t.ok((await countOf(db, "quota_usage_days WHERE user_id = 'late'")) >= 4)
  await sameAsLog(t, db, 'after a late charge', ['Europe/Berlin', 'Europe/Paris'])
  t.strictSame(errors, [])
  await db.close()
  await rollups.keep()
  t.equal(errors.length, 1)
  await rollups.stop()
})
