import { syncBuiltinESMExports } from 'node:module'
import timers from 'node:timers/promises'
import t from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import type { Database } from '../../src/store/database.ts'
import { DenialTally } from '../../src/upkeep/denial-tally.ts'
import { LiveReservationSet } from '../../src/upkeep/live-reservations.ts'
import { startUpkeep } from '../../src/upkeep/upkeep.ts'
import { UsageRollups } from '../../src/upkeep/usage-rollups.ts'
import { hold } from '../fixtures/charges.ts'
import { embedded } from '../fixtures/database.ts'
import { until } from '../fixtures/ledger.ts'

const HOUR_MS = 3_600_000
const { setTimeout: sleep } = timers

/** The rows that each table has until the upkeep has done its task, by what is true once it has. */
const LEFT = {
  'expired reservations are released': "quota_reservations WHERE user_id = 'alice'",
  'live reservations are renewed':
    "quota_reservations WHERE user_id = 'bob' AND expires_at < now() + interval '30 minutes'",
  'denials are counted': "(SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM quota_denials WHERE user_id = 'alice')) d",
  'the log is added up': "(SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM quota_usage_days WHERE user_id = 'gone')) d",
  'all idempotency keys older than a day are deleted': "quota_idempotency_keys WHERE user_id = 'alice'",
  'sums too old to be looked up are deleted': "quota_rollups WHERE day_end < now() - interval '400 days'",
  'log rows past their retention are deleted': "usage_logs WHERE user_id = 'old'"
}

const DENIED = {
  name: 'denied',
  userId: 'alice',
  endpoint: '/a',
  charges: [{ type: 'calls', amount: 1, remaining: 0, limit: 10 }],
  statusCode: 402,
  at: new Date()
} as const

t.test('each upkeep task is done within about an hour, without any request', async t => {
  const db = await embedded(t)
  await declareTypes(db, { calls: { limit: 10, period: 'never' } })
  const live = new LiveReservationSet(HOUR_MS)
  const errors: unknown[] = []
  const tally = new DenialTally(db)
  const rollups = new UsageRollups(db, error => errors.push(error))
  await hold(db, 'alice', { calls: 1 }, { leaseMs: 1 })
  const charges = await hold(db, 'bob', { calls: 1 })
  const held = { userId: 'bob', charges, renewAt: 0, renewUntil: Number.POSITIVE_INFINITY, livePlace: -1 }
  live.join(held)
  held.renewAt = 0
  await db.query(`
    INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
    SELECT CASE WHEN n = 0 THEN 'old' ELSE 'gone' END, id, 1, now() - CASE WHEN n = 0 THEN interval '32 days' ELSE interval '2 days' END
      FROM generate_series(0, 1000) n CROSS JOIN quota_types`)
  await db.query(`
    INSERT INTO quota_idempotency_keys (user_id, key, quota_type_id, amount, balance, created_at)
    SELECT 'alice', n::text, id, 1, '{}'::jsonb, now() - interval '25 hours' FROM generate_series(1, 1001) n CROSS JOIN quota_types
    UNION ALL
    SELECT 'bob', n::text, id, 1, '{}'::jsonb, now() - interval '23 hours 50 minutes' FROM generate_series(1, 2) n CROSS JOIN quota_types`)
  await db.query(`
    INSERT INTO quota_rollups (time_zone, day_start, day_end, rolled_until)
    SELECT 'UTC', day, day + interval '1 day', day FROM (SELECT now() - interval '500 days' AS day) d`)
  const left = async (table: string) => (await db.query<{ n: number }>(`SELECT count(*)::int AS n FROM ${table}`))[0]!.n
  for (const [what, table] of Object.entries(LEFT)) t.ok((await left(table)) > 0, `not yet: ${what}`)

  // A little more than an hour passes within a fortieth of a second, so hourly tasks are done once.
  let hourly = 2
  const passing = (ms: number) => (ms < HOUR_MS || (ms === HOUR_MS && hourly-- > 0) ? ms / 144_000 : 2 ** 31 - 1)
  t.intercept(timers, 'setTimeout', {
    value: (ms: number, ...given: [undefined, object]) => sleep(passing(ms), ...given)
  })
  syncBuiltinESMExports()
  const upkeep = startUpkeep(
    db,
    { live, tally, rollups },
    { reservationTtlMs: HOUR_MS, retention: { usageLogs: 30 } },
    error => errors.push(error)
  )
  tally.hear(DENIED)
  for (const [what, table] of Object.entries(LEFT)) await until(what, 30_000, async () => (await left(table)) === 0)
  t.equal(await left('quota_idempotency_keys'), 2, "another user's younger ones of the same names are kept")
  await upkeep.stop()
  t.strictSame(errors, [])
})

t.test('stopping does not wait until all that has expired is given back', async t => {
  const db = await embedded(t)
  await declareTypes(db, { calls: { limit: 10 } })
  for (const user of ['alice', 'bob', 'carol']) await hold(db, user, { calls: 1 }, { leaseMs: 1 })
  let stopped: Promise<void> | undefined
  const watched: Database = {
    ...db,
    query: async (text, ...given) => {
      const rows = await db.query(text, ...given)
      if (text.includes('DELETE FROM quota_reservations')) stopped ??= upkeep.stop()
      return rows as never
    }
  }
  const errors: unknown[] = []
  const rooms = {
    live: new LiveReservationSet(HOUR_MS),
    tally: new DenialTally(db),
    rollups: new UsageRollups(db, error => errors.push(error))
  }
  const upkeep = startUpkeep(watched, rooms, { reservationTtlMs: 30, retention: {} }, error => errors.push(error))
  await until('the first is given back', 30_000, async () => stopped !== undefined)
  await stopped
  const left = await db.query('SELECT user_id FROM quota_reservations ORDER BY user_id')
  t.strictSame(left, [{ user_id: 'bob' }, { user_id: 'carol' }])
  t.strictSame(errors, [])
})

t.test('stopping counts the last denials, and reports it if that fails', async t => {
  const db = await embedded(t)
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 1 })
  const failing = { ...db, query: async () => Promise.reject(new Error('down')) }
  for (const [to, told] of [
    [db, []],
    [failing, [['down', 'count denials']]]
  ] as const) {
    const errors: unknown[] = []
    const tally = new DenialTally(to)
    const rooms = {
      live: new LiveReservationSet(HOUR_MS),
      tally,
      rollups: new UsageRollups(db, error => errors.push(error))
    }
    const upkeep = startUpkeep(db, rooms, { reservationTtlMs: HOUR_MS, retention: {} }, (error, task) =>
      errors.push([(error as Error).message, task])
    )
    tally.hear(DENIED)
    await upkeep.stop()
    t.strictSame(errors, told)
  }
  t.match(await db.query('SELECT denials::int AS denials FROM quota_denials'), [{ denials: 1 }])
})
