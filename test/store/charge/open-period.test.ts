import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { setType } from '../../../src/store/catalogue/set-type.ts'
import { charge } from '../../../src/store/charge/charge.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { ensureUser } from '../../../src/store/charge/ensure-user.ts'
import { expireReservations } from '../../../src/store/charge/expire-reservations.ts'
import { openPeriods } from '../../../src/store/charge/open-period.ts'
import { release } from '../../../src/store/charge/release.ts'
import { voidCharges } from '../../../src/store/charge/void.ts'
import type { Database } from '../../../src/store/database.ts'
import { viewQuotas } from '../../../src/store/operator/view-quotas.ts'
import { both } from '../../fixtures/both.ts'
import { BY, costing, hold, logOf, periodsOf, standing, tryHold, wanted } from '../../fixtures/charges.ts'

const onBoth = await both(t)
const day = (text: string) => new Date(text)
const iso = (text: string) => new Date(text).toISOString()

const consumeAt = async (db: Database, amount: number, at: string) =>
  charge(db, {
    userId: 'alice',
    charges: await wanted(db, { calls: amount }),
    at: day(at),
    endpoint: null,
    metadata: {},
    idempotencyKey: null
  })

onBoth('the first charge after the end of a period rolls it over, and the closed one is kept', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await consumeAt(db, 7, '2026-01-31T23:59:59.999Z')
  t.equal((await consumeAt(db, 4, '2026-01-31T23:59:59.999Z')).admitted, false)
  t.match(await consumeAt(db, 4, '2026-02-01'), {
    charges: [{ balance: { used: 4, remaining: 6, periodStart: iso('2026-02-01'), resetsAt: iso('2026-03-01') } }]
  })
  t.strictSame(await periodsOf(db, 'alice', 'calls'), [
    { start: iso('2026-01-01'), end: iso('2026-02-01'), limit: 10, used: 7, reserved: 0, closed: true },
    { start: iso('2026-02-01'), end: iso('2026-03-01'), limit: null, used: 0, reserved: 0, closed: false }
  ])
})

onBoth('a reserve of several types rolls over those that have ended, and only those', async (t, db) => {
  await declareTypes(db, {
    hourly: { limit: 1, period: 'hour' },
    weekly: { limit: 2, period: 'week' },
    once: { limit: 2, period: 'never' }
  })
  await hold(db, 'alice', { hourly: 1, weekly: 1, once: 1 }, { at: day('2026-03-10T12:59:00Z') })
  const [hourly, weekly, once] = await hold(
    db,
    'alice',
    { hourly: 1, weekly: 1, once: 1 },
    { at: day('2026-03-10T13:00:00Z') }
  )
  t.match(hourly!.balance, {
    reserved: 1,
    periodStart: iso('2026-03-10T13:00:00Z'),
    resetsAt: iso('2026-03-10T14:00:00Z')
  })
  t.match(weekly!.balance, { reserved: 2, periodStart: iso('2026-03-09'), resetsAt: iso('2026-03-16') })
  t.match(once!.balance, { reserved: 2, periodStart: iso('2026-03-10T12:59:00Z'), resetsAt: null })
})

onBoth('after three idle periods only the current one opens, and no empty ones in between', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await consumeAt(db, 7, '2026-01-10')
  await consumeAt(db, 1, '2026-05-20')
  t.strictSame(
    (await periodsOf(db, 'alice', 'calls')).map(p => [p.start, p.end, p.used, p.closed]),
    [
      [iso('2026-01-01'), iso('2026-02-01'), 7, true],
      [iso('2026-05-01'), iso('2026-06-01'), 0, false]
    ]
  )
})

onBoth('a limit changed during a period is kept in the next, and recorded in the closed one', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await consumeAt(db, 7, '2026-01-10')
  await db.query('UPDATE quota_limits SET limit_amount = 30')
  await consumeAt(db, 20, '2026-02-10')
  t.equal((await periodsOf(db, 'alice', 'calls'))[0]!.limit, 30)
  t.strictSame(await standing(db, 'alice', 'calls', day('2026-02-10')), [20, 0, 10])
})

onBoth("periods begin and end at the midnights of the user's zone", async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'day' } })
  await db.query("INSERT INTO quota_users (id, time_zone) VALUES ('alice', 'America/New_York')")
  // The night of 8 March 2026 is an hour short.
  const [held] = await hold(db, 'alice', { calls: 1 }, { at: day('2026-03-08T05:00:00Z') })
  t.match(held!.balance, { periodStart: iso('2026-03-08T05:00:00Z'), resetsAt: iso('2026-03-09T04:00:00Z') })
  const [next] = await hold(db, 'alice', { calls: 1 }, { at: day('2026-03-09T04:00:00Z') })
  t.match(next!.balance, { reserved: 1, periodStart: iso('2026-03-09T04:00:00Z') })
})

onBoth("an anchored month begins on the user's own day, and is back on the 31st after a short month", async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await db.query("INSERT INTO quota_users (id, period_anchor) VALUES ('alice', '2025-12-31')")
  for (const at of ['2026-01-31', '2026-02-28', '2026-03-31']) await consumeAt(db, 1, `${at}T10:00:00Z`)
  t.strictSame(
    (await periodsOf(db, 'alice', 'calls')).map(p => p.start),
    [iso('2026-01-31'), iso('2026-02-28'), iso('2026-03-31')]
  )
})

onBoth('a changed time zone never makes the next period overlap the closed one', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'day' } })
  await consumeAt(db, 1, '2026-03-10T12:00:00Z')
  await db.query("UPDATE quota_users SET time_zone = 'America/New_York'")
  await consumeAt(db, 1, '2026-03-11T01:00:00Z')
  t.strictSame(
    (await periodsOf(db, 'alice', 'calls')).map(p => [p.start, p.end]),
    [
      [iso('2026-03-10'), iso('2026-03-11')],
      [iso('2026-03-11'), iso('2026-03-11T04:00:00Z')]
    ]
  )
})

onBoth('an invalid time zone is refused, and named in the error', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await db.query("INSERT INTO quota_users (id, time_zone) VALUES ('alice', 'Mars/Base')")
  await t.rejects(tryHold(db, 'alice', { calls: 1 }), { code: 'FST_QUOTA_CALENDAR', message: /Mars\/Base/ })
})

onBoth('a reservation is charged to the period that admitted it, however late', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const at = '2026-01-31T23:59:59.500Z'
  const [first, second, third] = [1, 2, 3].map(n => hold(db, 'alice', { calls: n }, { at: day(at) }))
  await Promise.all([first, second, third])
  await hold(db, 'alice', { calls: 4 }, { at: day('2026-02-01') })
  t.match((await periodsOf(db, 'alice', 'calls'))[0], { used: 6, reserved: 6, closed: true })
  t.equal((await commit(db, 'alice', costing(await first!, { calls: 5 }), null)).size, 0)
  t.equal((await release(db, 'alice', await second!)).size, 0)
  await voidCharges(db, 'alice', await third!)
  t.match((await periodsOf(db, 'alice', 'calls'))[0], { used: 5, reserved: 0, limit: 10 })
  t.strictSame(await logOf(db, 'alice'), [[5, at]])
  t.strictSame(await standing(db, 'alice', 'calls', day('2026-02-01')), [0, 4, 6])
})

onBoth('an expired reservation of a closed period that is committed late counts in that period', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 3 }, { at: day('2026-01-31T23:59:59Z'), leaseMs: 60_000 })
  await hold(db, 'alice', { calls: 1 }, { at: day('2026-02-01') })
  t.equal(await expireReservations(db, 'alice', day('2026-02-01T00:10:00Z')), 2)
  t.match((await periodsOf(db, 'alice', 'calls'))[0], { used: 0, reserved: 0 })
  await commit(db, 'alice', costing(held), null)
  t.match((await periodsOf(db, 'alice', 'calls'))[0], { used: 3, reserved: 0 })
  await voidCharges(db, 'alice', held)
  t.match((await periodsOf(db, 'alice', 'calls'))[0], { used: 0, reserved: 0 })
  t.strictSame(await standing(db, 'alice', 'calls', day('2026-02-02')), [0, 0, 10])
})

onBoth('one commit of charges of two periods changes both', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const old = await hold(db, 'alice', { calls: 3 }, { at: day('2026-01-31T23:59:59Z') })
  const young = await hold(db, 'alice', { calls: 4 }, { at: day('2026-02-01') })
  const balances = await commit(db, 'alice', costing([...old, ...young]), null)
  t.match(balances.get('calls'), { used: 4, reserved: 0, remaining: 6 })
  t.match((await periodsOf(db, 'alice', 'calls'))[0], { used: 3, reserved: 0 })
})

onBoth('a counter that was inserted by hand, without a period row, rolls over like any other', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await db.query("INSERT INTO quota_users (id) VALUES ('alice')")
  await db.query(
    "INSERT INTO quota_limits (user_id, quota_type_id, limit_amount, period_start, period_end) SELECT 'alice', id, 50, '2026-01-01Z', '2026-02-01Z' FROM quota_types"
  )
  await consumeAt(db, 5, '2026-01-10')
  await openPeriods(db, 'alice', day('2026-02-10'))
  t.strictSame(
    (await periodsOf(db, 'alice', 'calls')).map(p => [p.start, p.limit, p.used]),
    [
      [iso('2026-01-01'), 50, 5],
      [iso('2026-02-01'), null, 0]
    ]
  )
})

onBoth('opening periods again changes nothing', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await consumeAt(db, 5, '2026-01-10')
  for (let i = 0; i < 2; i++) await openPeriods(db, 'alice', day('2026-02-10'))
  await consumeAt(db, 2, '2026-02-11')
  await openPeriods(db, 'alice', day('2026-02-12'))
  t.strictSame(await standing(db, 'alice', 'calls', day('2026-02-12')), [2, 0, 8])
  t.equal((await periodsOf(db, 'alice', 'calls')).length, 2)
})

/** The same database, which does something between reading the periods and opening them. */
const interrupted = (db: Database, meanwhile: () => Promise<unknown>): Database => {
  let isFirst = true
  const query: Database['query'] = async (text, ...rest) => {
    if (isFirst && text.includes('WITH want')) {
      isFirst = false
      await meanwhile()
    }
    return db.query(text, ...rest)
  }
  return Object.create(db, { query: { value: query } })
}

onBoth('the next period has an end if its type was given a period after it was read', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'month' }, more: { limit: 10, period: 'day' } })
  await hold(db, 'alice', { calls: 8, more: 8 }, { at: day('2026-01-10') })
  await setType(db, 'calls', { period: 'never' }, BY)
  const at = day('2026-02-10')
  await openPeriods(
    interrupted(db, () => setType(db, 'calls', { period: 'month' }, BY)),
    'alice',
    at
  )
  t.match((await viewQuotas(db, 'alice', undefined, at)).quotas, [
    { type: 'calls', used: 0, resetsAt: iso('2026-03-01') },
    { type: 'more', used: 0, resetsAt: iso('2026-02-11') }
  ])
  for (const type of ['calls', 'more'])
    t.match(await periodsOf(db, 'alice', type), [{ used: 8, closed: true }, { closed: false }])
})

onBoth("a new user's first period has an end if its type was given a period after it was read", async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'never' }, bytes: { limit: 10, kind: 'level' } })
  await ensureUser(
    interrupted(db, () => setType(db, 'calls', { period: 'month' }, BY)),
    'alice'
  )
  t.match((await viewQuotas(db, 'alice')).quotas, [
    { type: 'bytes', resetsAt: null },
    { type: 'calls', resetsAt: Date }
  ])
  for (const type of ['calls', 'bytes']) t.match(await periodsOf(db, 'alice', type), [{ closed: false }])
})

onBoth('a flow that never restarts opens without an end, also when it rolls over from a month', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'never' }, more: { limit: 10 } })
  await hold(db, 'alice', { calls: 1, more: 1 }, { at: day('2026-01-10') })
  t.match((await viewQuotas(db, 'alice', 'calls')).quotas, [{ resetsAt: null }])
  await setType(db, 'more', { period: 'never' }, BY)
  await hold(db, 'alice', { more: 2 }, { at: day('2026-02-10') })
  t.match((await viewQuotas(db, 'alice', 'more', day('2026-02-10'))).quotas, [{ reserved: 2, resetsAt: null }])
})

onBoth(
  'a counter that was moved to an earlier period by hand rolls over into the period that it came from',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 10 } })
    await consumeAt(db, 2, '2026-02-10')
    await db.query("UPDATE quota_limits SET period_start = '2026-01-01Z', period_end = '2026-02-01Z'")
    await db.query("UPDATE usage_logs SET created_at = '2026-01-10Z'")
    await consumeAt(db, 1, '2026-02-10')
    t.strictSame(
      (await periodsOf(db, 'alice', 'calls')).map(p => [p.start, p.end, p.limit, p.used, p.closed]),
      [
        [iso('2026-01-01'), iso('2026-02-01'), 10, 2, true],
        [iso('2026-02-01'), iso('2026-03-01'), null, 0, false]
      ]
    )
    t.strictSame(await standing(db, 'alice', 'calls', day('2026-02-10')), [1, 0, 9])
  }
)
