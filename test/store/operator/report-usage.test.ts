import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import type { Database } from '../../../src/store/database.ts'
import { adjustQuota } from '../../../src/store/operator/adjust-quota.ts'
import { currentMonth, reportUsage, type UsageLine } from '../../../src/store/operator/report-usage.ts'
import { resetQuota } from '../../../src/store/operator/reset-quota.ts'
import { setUsers } from '../../../src/store/operator/set-users.ts'
import { both } from '../../fixtures/both.ts'
import { type Amounts, BY, costing, hold } from '../../fixtures/charges.ts'

const onBoth = await both(t)

/** Holds and charges. */
const use = async (db: Database, userId: string, amounts: Amounts, at?: string) =>
  commit(
    db,
    userId,
    costing(await hold(db, userId, amounts, { at: at === undefined ? undefined : new Date(at) })),
    null
  )

const deny = (db: Database, userId: string, type: string, hour: string, denials: number) =>
  db.query(
    `INSERT INTO quota_denials (user_id, quota_type_id, hour, denials)
     SELECT $1, id, $3::timestamptz, $4 FROM quota_types WHERE type_key = $2`,
    [userId, type, hour, denials]
  )

/** `[user, type, used, limit, calls, denials]` of each line. */
async function lines(db: Database, month: string): Promise<(string | number)[][]> {
  const found: UsageLine[] = []
  for await (const line of reportUsage(db, month)) found.push(line)
  return found.map(l => [l.userId, l.type, l.used, l.limit, l.calls, l.denials])
}

const zone = (db: Database, id: string, timeZone: string | null, periodAnchor: string | null = null) =>
  setUsers(db, [{ id, email: null, timeZone, periodAnchor }], BY)

onBoth('reports what was charged in a month, closed or running, and leaves out what is held', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, unit: 'page' } })
  await use(db, 'alice', { calls: 3 }, '2026-10-31T23:59:59.999Z')
  await use(db, 'alice', { calls: 4 }, '2026-11-01T00:00:00Z')
  await use(db, 'alice', { calls: 1 }, '2026-11-30T23:59:59Z')
  await hold(db, 'alice', { calls: 2 }, { at: new Date('2026-11-30T23:59:59Z') })
  await use(db, 'alice', { calls: 6 }, '2026-12-02T00:00:00Z')
  await hold(db, 'alice', { calls: 1 }, { at: new Date('2026-12-02T00:00:00Z') })
  t.strictSame(await lines(db, '2026-10'), [['alice', 'calls', 3, 10, 1, 0]])
  t.strictSame(await lines(db, '2026-11'), [['alice', 'calls', 5, 10, 2, 0]])
  t.strictSame(await lines(db, '2026-12'), [['alice', 'calls', 6, 10, 1, 0]])
  for (const month of ['2026-09', '2027-01']) t.strictSame(await lines(db, month), [], month)
  const { value } = await reportUsage(db, '2026-11').next()
  t.strictSame(value, { userId: 'alice', type: 'calls', unit: 'page', used: 5, limit: 10, calls: 2, denials: 0 })
})

onBoth('counts a late charge in the month in which it was admitted', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 3 }, { at: new Date('2026-11-30T23:59:59Z') })
  await use(db, 'alice', { calls: 1 }, '2026-12-01T00:00:01Z')
  await commit(db, 'alice', costing(held), null)
  t.strictSame(await lines(db, '2026-11'), [['alice', 'calls', 3, 10, 1, 0]])
  t.strictSame(await lines(db, '2026-12'), [['alice', 'calls', 1, 10, 1, 0]])
})

onBoth("counts a period in the month in which it begins by its user's current time zone", async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await zone(db, 'alice', 'Europe/Berlin')
  await use(db, 'alice', { calls: 3 }, '2026-10-10T12:00:00Z')
  await use(db, 'alice', { calls: 4 }, '2026-11-10T12:00:00Z')
  const used = async () => {
    const found: unknown[] = []
    for (const month of ['2026-09', '2026-10', '2026-11']) found.push((await lines(db, month))[0]?.[2])
    return found
  }
  t.strictSame(await used(), [undefined, 3, 4])
  await zone(db, 'alice', 'America/New_York')
  t.strictSame(await used(), [3, 4, undefined], 'midnight in Berlin is the evening before in New York')
  await zone(db, 'alice', 'Asia/Tokyo')
  t.strictSame(await used(), [undefined, 3, 4])
})

onBoth('adds up the usage and the limits of the periods that a reset splits a month into', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const month = await currentMonth(db)
  await use(db, 'alice', { calls: 10 })
  await resetQuota(db, 'alice', null, BY)
  await adjustQuota(db, 'alice', 'calls', 25, BY)
  await use(db, 'alice', { calls: 4 })
  t.strictSame(await lines(db, month), [['alice', 'calls', 14, 35, 2, 0]])
  await adjustQuota(db, 'alice', 'calls', -1, BY)
  t.strictSame(await lines(db, month), [['alice', 'calls', 14, -1, 2, 0]], 'unlimited if one of them is')
})

onBoth('adds up the hours, days and weeks that began in the month', async (t, db) => {
  await declareTypes(db, {
    hourly: { limit: 2, period: 'hour' },
    daily: { limit: 5, period: 'day' },
    weekly: { limit: 7, period: 'week' }
  })
  // Sunday 1 November belongs to the week of 26 October, 1 December to that of 30 November.
  for (const at of ['2026-10-31T10:00:00Z', '2026-11-01T10:00:00Z', '2026-11-30T23:30:00Z', '2026-12-01T10:00:00Z'])
    await use(db, 'alice', { hourly: 1, daily: 1, weekly: 1 }, at)
  t.strictSame(await lines(db, '2026-11'), [
    ['alice', 'daily', 2, 10, 2, 0],
    ['alice', 'hourly', 2, 4, 2, 0],
    ['alice', 'weekly', 2, 7, 2, 0]
  ])
  t.strictSame(await lines(db, '2026-12'), [
    ['alice', 'daily', 1, 5, 1, 0],
    ['alice', 'hourly', 1, 2, 1, 0]
  ])
})

onBoth('counts an anchored month in the month in which it begins, with the denials until it ends', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await zone(db, 'alice', null, '2026-01-15')
  await use(db, 'alice', { calls: 1 }, '2026-11-14T12:00:00Z')
  await use(db, 'alice', { calls: 2 }, '2026-11-15T12:00:00Z')
  await use(db, 'alice', { calls: 3 }, '2026-12-14T12:00:00Z')
  await use(db, 'alice', { calls: 4 }, '2026-12-15T12:00:00Z')
  await deny(db, 'alice', 'calls', '2026-12-14T23:00:00Z', 5)
  await deny(db, 'alice', 'calls', '2026-12-15T00:00:00Z', 6)
  t.strictSame(await lines(db, '2026-11'), [['alice', 'calls', 5, 10, 2, 5]])
  t.strictSame(await lines(db, '2026-12'), [['alice', 'calls', 4, 10, 1, 6]])
})

onBoth('reports charges that add up to nothing', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await use(db, 'alice', { calls: 0 }, '2026-11-10T00:00:00Z')
  await hold(db, 'bob', { calls: 1 }, { at: new Date('2026-11-10T00:00:00Z') })
  t.strictSame(await lines(db, '2026-11'), [['alice', 'calls', 0, 10, 1, 0]])
})

onBoth('counts a month of a longer period from the log, with the limit at the end of that period', async (t, db) => {
  await declareTypes(db, { yearly: { limit: 100, period: 'year' }, once: { limit: 50, period: 'never' } })
  await use(db, 'alice', { yearly: 1, once: 1 }, '2026-10-31T23:59:59Z')
  await use(db, 'alice', { yearly: 2, once: 2 }, '2026-11-01T00:00:00Z')
  await use(db, 'alice', { yearly: 3, once: 3 }, '2026-12-31T23:59:59Z')
  await use(db, 'alice', { yearly: 4, once: 4 }, '2027-01-01T00:00:00Z')
  await db.query('UPDATE quota_limits SET limit_amount = limit_amount * 2')
  t.strictSame(await lines(db, '2026-11'), [
    ['alice', 'once', 2, 100, 1, 0],
    ['alice', 'yearly', 2, 100, 1, 0]
  ])
  t.strictSame(await lines(db, '2027-01'), [
    ['alice', 'once', 4, 100, 1, 0],
    ['alice', 'yearly', 4, 200, 1, 0]
  ])
})

onBoth('counts a week in the month in which it began, and in no other', async (t, db) => {
  await declareTypes(db, { weekly: { limit: 7, period: 'week' } })
  await use(db, 'alice', { weekly: 3 }, '2026-10-28T10:00:00Z')
  await use(db, 'alice', { weekly: 2 }, '2026-11-01T10:00:00Z')
  await use(db, 'alice', { weekly: 1 }, '2027-01-05T10:00:00Z')
  await db.query('UPDATE quota_limits SET limit_amount = 9')
  await deny(db, 'alice', 'weekly', '2026-11-01T10:00:00Z', 4)
  t.strictSame(await lines(db, '2026-10'), [['alice', 'weekly', 5, 7, 2, 4]])
  t.strictSame(await lines(db, '2026-11'), [])
})

onBoth('reports a level as it was at the end of the month, and how many charges the month had', async (t, db) => {
  await declareTypes(db, { bytes: { limit: 100, kind: 'level', unit: 'byte' } })
  await use(db, 'alice', { bytes: 10 }, '2026-09-10T00:00:00Z')
  await use(db, 'alice', { bytes: 20 }, '2026-11-10T00:00:00Z')
  await use(db, 'alice', { bytes: 30 }, '2026-11-11T00:00:00Z')
  await use(db, 'alice', { bytes: 5 }, '2026-12-01T00:00:00Z')
  await hold(db, 'alice', { bytes: 7 }, { at: new Date('2026-12-02T00:00:00Z') })
  t.strictSame(await lines(db, '2026-08'), [])
  t.strictSame(await lines(db, '2026-10'), [['alice', 'bytes', 10, 100, 0, 0]])
  t.strictSame(await lines(db, '2026-11'), [['alice', 'bytes', 60, 100, 2, 0]])
  t.strictSame(await lines(db, '2027-02'), [['alice', 'bytes', 65, 100, 0, 0]])
})

onBoth("reports the month in each user's own time zone", async (t, db) => {
  await declareTypes(db, {
    calls: { limit: 10 },
    once: { limit: 10, period: 'never' },
    bytes: { limit: 10, kind: 'level' }
  })
  await zone(db, 'berlin', 'Europe/Berlin')
  await zone(db, 'kolkata', 'Asia/Kolkata')
  for (const user of ['berlin', 'kolkata', 'utc'])
    for (const [i, at] of ['2026-10-31T18:29:59Z', '2026-10-31T22:59:59Z', '2026-10-31T23:00:00Z'].entries())
      await use(db, user, { calls: i + 1, once: i + 1, bytes: i + 1 }, at)
  t.strictSame(await lines(db, '2026-11'), [
    ['berlin', 'bytes', 6, 10, 1, 0],
    ['berlin', 'calls', 3, 10, 1, 0],
    ['berlin', 'once', 3, 10, 1, 0],
    ['kolkata', 'bytes', 6, 10, 2, 0],
    ['kolkata', 'calls', 5, 10, 2, 0],
    ['kolkata', 'once', 5, 10, 2, 0],
    ['utc', 'bytes', 6, 10, 0, 0]
  ])
  t.strictSame(
    (await lines(db, '2026-10')).filter(([user]) => user === 'berlin'),
    [
      ['berlin', 'bytes', 3, 10, 2, 0],
      ['berlin', 'calls', 3, 10, 2, 0],
      ['berlin', 'once', 3, 10, 2, 0]
    ]
  )
})

onBoth('counts denials from the hour in which the month began until it ended', async (t, db) => {
  await declareTypes(db, { calls: { limit: 0 }, spare: { limit: 1 } })
  await zone(db, 'kolkata', 'Asia/Kolkata')
  for (const user of ['alice', 'kolkata']) await hold(db, user, { calls: 0 }, { at: new Date('2026-11-10') })
  for (const [i, hour] of [
    '2026-10-31T17',
    '2026-10-31T18',
    '2026-10-31T23',
    '2026-11-01T00',
    '2026-12-01T00'
  ].entries())
    for (const user of ['alice', 'kolkata']) await deny(db, user, 'calls', `${hour}:00:00Z`, 10 ** i)
  t.strictSame(await lines(db, '2026-11'), [
    ['alice', 'calls', 0, 0, 0, 1000],
    ['kolkata', 'calls', 0, 0, 0, 1110]
  ])
})

onBoth('reports a type that was switched off', async (t, db) => {
  await declareTypes(db, { off: { limit: 10 } })
  await use(db, 'alice', { off: 1 }, '2026-11-10T00:00:00Z')
  await db.query("UPDATE quota_types SET is_active = false WHERE type_key = 'off'")
  t.strictSame(await lines(db, '2026-11'), [['alice', 'off', 1, 10, 1, 0]])
})

const setPeriod = (db: Database, period: string) => db.query('UPDATE quota_types SET period = $1', [period])

onBoth("counts a month of a year from the log even if the type's period is now a week", async (t, db) => {
  await declareTypes(db, { changed: { limit: 50, period: 'year' } })
  await use(db, 'alice', { changed: 6 }, '2026-11-10T00:00:00Z')
  await deny(db, 'alice', 'changed', '2026-11-10T00:00:00Z', 2)
  await setPeriod(db, 'week')
  t.strictSame(await lines(db, '2026-11'), [['alice', 'changed', 6, 50, 1, 2]])
  t.strictSame(await lines(db, '2026-01'), [])
})

onBoth("counts a month and a week where they began even if the type's period is now a year", async (t, db) => {
  await declareTypes(db, { monthly: { limit: 50 }, weekly: { limit: 50, period: 'week' } })
  await use(db, 'alice', { weekly: 1 }, '2026-10-28T00:00:00Z')
  await use(db, 'alice', { monthly: 5, weekly: 2 }, '2026-11-01T00:00:00Z')
  await setPeriod(db, 'year')
  // The rest of the year is longer than a month from 2 November on, and not from 1 December on.
  await use(db, 'alice', { monthly: 1, weekly: 4 }, '2026-11-10T00:00:00Z')
  await use(db, 'alice', { monthly: 7, weekly: 8 }, '2026-12-10T00:00:00Z')
  await use(db, 'alice', { monthly: 9, weekly: 9 }, '2027-03-10T00:00:00Z')
  t.strictSame(await lines(db, '2026-10'), [['alice', 'weekly', 3, 50, 2, 0]])
  t.strictSame(await lines(db, '2026-11'), [
    ['alice', 'monthly', 6, 50, 2, 0],
    ['alice', 'weekly', 4, 50, 1, 0]
  ])
  t.strictSame(await lines(db, '2026-12'), [
    ['alice', 'monthly', 7, 50, 1, 0],
    ['alice', 'weekly', 8, 50, 1, 0]
  ])
  t.strictSame(await lines(db, '2027-01'), [])
  t.strictSame(await lines(db, '2027-03'), [
    ['alice', 'monthly', 9, 50, 1, 0],
    ['alice', 'weekly', 9, 50, 1, 0]
  ])
})

onBoth(
  'adds up an endless period, taken from the log, and the periods that follow it in a month, and the other way round',
  async (t, db) => {
    await declareTypes(db, { changed: { limit: 50, period: 'never' } })
    await use(db, 'alice', { changed: 1 }, '2026-09-10T00:00:00Z')
    await use(db, 'alice', { changed: 2 }, '2026-11-10T00:00:00Z')
    await deny(db, 'alice', 'changed', '2026-11-19T23:00:00Z', 1)
    await setPeriod(db, 'week')
    await db.query("UPDATE quota_limits SET period_end = '2026-11-19T23:30:00Z'")
    await use(db, 'alice', { changed: 4 }, '2026-11-20T00:00:00Z')
    await use(db, 'alice', { changed: 8 }, '2026-12-01T00:00:00Z')
    await use(db, 'alice', { changed: 16 }, '2026-12-08T00:00:00Z')
    await setPeriod(db, 'never')
    await use(db, 'alice', { changed: 32 }, '2026-12-15T00:00:00Z')
    await use(db, 'alice', { changed: 8 }, '2027-02-15T00:00:00Z')
    t.strictSame(await lines(db, '2026-09'), [['alice', 'changed', 1, 50, 1, 0]])
    t.strictSame(await lines(db, '2026-10'), [])
    t.strictSame(await lines(db, '2026-11'), [['alice', 'changed', 14, 100, 3, 1]])
    t.strictSame(await lines(db, '2026-12'), [['alice', 'changed', 48, 100, 2, 0]])
    t.strictSame(await lines(db, '2027-02'), [['alice', 'changed', 8, 50, 1, 0]])
  }
)

onBoth(
  'reports imported log rows that belong to no period',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 10 } })
    await use(db, 'alice', { calls: 1 }, '2026-11-10T00:00:00Z')
    await db.query(
      "INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at) SELECT 'alice', id, 3, '2026-05-10T00:00:00Z' FROM quota_types"
    )
    t.strictSame(await lines(db, '2026-05'), [['alice', 'calls', 3, 10, 1, 0]])
    t.strictSame(await lines(db, '2026-11'), [['alice', 'calls', 1, 10, 1, 0]])
  },
  { logAlone: true }
)

onBoth('reports each of many users once, in order of id, whatever characters the ids have', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, unused: { limit: 10 } })
  const ids = Array.from({ length: 1_100 }, (_, i) => `${['u', 'U', '=', 'ü', "'", '\\', '{"'][i % 7]}${i}`)
  const counted = 'SELECT u.id, t.id, $1::timestamptz, $2::timestamptz FROM quota_users u, quota_types t'
  const november = ['2026-11-01T00:00:00Z', '2026-12-01T00:00:00Z']
  await setUsers(
    db,
    ids.map(id => ({ id, email: null, timeZone: null, periodAnchor: null })),
    BY
  )
  await db.query(
    `INSERT INTO quota_limits (user_id, quota_type_id, period_start, period_end, limit_amount) SELECT c.*, 10 FROM (${counted}) c`,
    november
  )
  await db.query(`INSERT INTO quota_periods (user_id, quota_type_id, period_start, period_end) ${counted}`, november)
  await db.query(
    `WITH logged AS (
       INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
       SELECT l.user_id, l.quota_type_id, 1, l.period_start FROM quota_limits l JOIN quota_types t ON t.id = l.quota_type_id AND t.type_key = 'calls'
       RETURNING user_id, quota_type_id)
     UPDATE quota_limits l SET used_amount = 1 FROM logged g WHERE g.user_id = l.user_id AND g.quota_type_id = l.quota_type_id`
  )
  const found = await lines(db, '2026-11')
  t.equal(found.length, ids.length)
  t.strictSame(new Set(found.map(([user]) => user)), new Set(ids))
  const ordered = await db.query<{ id: string }>('SELECT id FROM quota_users ORDER BY id')
  t.strictSame(
    found.map(([user]) => user),
    ordered.map(row => row.id)
  )
  t.equal((await lines(db, '2026-10')).length, 0, 'a month without usage has no lines')
})

onBoth('reads on after 500 users who used nothing', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await db.query("INSERT INTO quota_users (id) SELECT 'idle-' || i FROM generate_series(1, 500) i")
  await use(db, 'zoe', { calls: 1 }, '2026-11-10T00:00:00Z')
  t.strictSame(await lines(db, '2026-11'), [['zoe', 'calls', 1, 10, 1, 0]])
})

onBoth('names the user whose time zone is invalid', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await use(db, 'alice', { calls: 1 }, '2026-11-10T00:00:00Z')
  await db.query("UPDATE quota_users SET time_zone = 'Mars/Olympus'")
  await t.rejects(lines(db, '2026-11'), {
    code: 'FST_QUOTA_CALENDAR',
    message: /^user 'alice': .*time_zone Mars\/Olympus, which is not an IANA name/
  })
})

onBoth('reports nothing without users, and gives the current month as YYYY-MM', async (t, db) => {
  t.strictSame(await lines(db, '2026-11'), [])
  t.match(await currentMonth(db), /^20\d\d-(0[1-9]|1[0-2])$/)
})
