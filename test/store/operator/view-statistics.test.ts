import t, { type Test } from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { charge } from '../../../src/store/charge/charge.ts'
import type { Database } from '../../../src/store/database.ts'
import { type StatisticsOrder, viewStatistics } from '../../../src/store/operator/view-statistics.ts'
import { countDenials } from '../../../src/store/upkeep/count-denials.ts'
import { both } from '../../fixtures/both.ts'
import { wanted } from '../../fixtures/charges.ts'

const onBoth = await both(t)

async function log(db: Database, userId: string, amount: number, at: string, type = 'calls') {
  const [want] = await wanted(db, { [type]: amount })
  const order = { userId, charges: [{ ...want!, id: v7() }], at: new Date(at), endpoint: '/a', metadata: {} }
  const outcome = await charge(db, { ...order, idempotencyKey: null })
  if (!outcome.admitted) throw new Error('denied')
}

const NOW = new Date('2026-03-10T12:00:00Z')

async function view(db: Database, order: Partial<StatisticsOrder> = {}) {
  const typeId = (await wanted(db, { calls: 1 }))[0]!.typeId
  return await viewStatistics(db, {
    typeId,
    days: 3,
    interval: 'day',
    timeZone: 'UTC',
    topUsers: 10,
    at: NOW,
    ...order
  })
}

const pieces = ({ series }: Awaited<ReturnType<typeof view>>) =>
  series.map(({ start, usage, calls, users, denials }) => [
    start.toISOString().slice(5, 16),
    usage,
    calls,
    users,
    denials
  ])

async function declared(db: Database) {
  await declareTypes(db, { calls: { limit: -1, period: 'never' }, others: { limit: -1, period: 'never' } })
  // Periods begin with the first charge; the log may lie anywhere after it.
  for (const user of ['alice', 'bob', 'carol']) await log(db, user, 0, '2026-01-01T00:00:00Z')
}

onBoth('adds up one type by day, including days without usage', async (t, db) => {
  await declared(db)
  await log(db, 'alice', 3, '2026-03-08T10:00:00Z')
  await log(db, 'alice', 4, '2026-03-10T10:00:00Z')
  await log(db, 'bob', 5, '2026-03-10T11:00:00Z')
  await log(db, 'bob', 100, '2026-03-10T11:00:00Z', 'others')
  const statistics = await view(db)
  t.strictSame(pieces(statistics), [
    ['03-08T00:00', 3, 1, 1, 0],
    ['03-09T00:00', 0, 0, 0, 0],
    ['03-10T00:00', 9, 2, 2, 0]
  ])
  t.equal(statistics.uniqueUsers, 2)
  t.strictSame(statistics.topUsers, [
    { userId: 'alice', usage: 7, calls: 2 },
    { userId: 'bob', usage: 5, calls: 1 }
  ])
})

onBoth('counts from the first instant of the range to the last one of today, and nothing outside', async (t, db) => {
  await declared(db)
  for (const [amount, at] of [
    [1, '2026-03-07T23:59:59.999Z'],
    [2, '2026-03-08T00:00:00.000Z'],
    [4, '2026-03-08T23:59:59.999Z'],
    [8, '2026-03-09T00:00:00.000Z'],
    [16, '2026-03-10T23:59:59.999Z'],
    [32, '2026-03-11T00:00:00.000Z']
  ] as const)
    await log(db, 'alice', amount, at)
  t.strictSame(
    pieces(await view(db)).map(([, usage]) => usage),
    [6, 8, 16]
  )
})

onBoth('splits at the midnights and hours of the time zone, even on the night of a clock change', async (t, db) => {
  await declared(db)
  // Berlin's 29 March 2026 has 23 hours: 23:00Z of the 28th to 22:00Z.
  await log(db, 'alice', 1, '2026-03-28T22:59:59.999Z')
  await log(db, 'alice', 2, '2026-03-28T23:00:00.000Z')
  await log(db, 'alice', 4, '2026-03-29T21:59:59.999Z')
  await log(db, 'alice', 8, '2026-03-29T22:00:00.000Z')
  const berlin = { timeZone: 'Europe/Berlin', at: new Date('2026-03-30T10:00:00Z') }
  t.strictSame(
    pieces(await view(db, berlin)).map(([, usage]) => usage),
    [1, 6, 8]
  )
  const hours = await view(db, { ...berlin, interval: 'hour', days: 2 })
  t.equal(hours.series.length, 47)
  t.strictSame(
    hours.series.filter(({ usage }) => usage > 0).map(({ start, usage }) => [start.toISOString(), usage]),
    [
      ['2026-03-28T23:00:00.000Z', 2],
      ['2026-03-29T21:00:00.000Z', 4],
      ['2026-03-29T22:00:00.000Z', 8]
    ]
  )
})

onBoth('counts denials by their hour, and adds up those of one user, type and hour', async (t, db) => {
  await declared(db)
  const denial = (userId: string, hour: string, denials: number, type = 'calls') => ({
    userId,
    type,
    hour: new Date(hour),
    denials
  })
  await countDenials(db, [denial('alice', '2026-03-09T23:00:00Z', 2), denial('bob', '2026-03-10T00:00:00Z', 5)])
  await countDenials(db, [
    denial('alice', '2026-03-09T23:00:00Z', 40),
    denial('alice', '2026-03-09T22:00:00Z', 100),
    denial('alice', '2026-03-07T23:00:00Z', 1000),
    denial('alice', '2026-03-08T00:00:00Z', 3),
    denial('alice', '2026-03-10T23:00:00Z', 20),
    denial('alice', '2026-03-11T00:00:00Z', 1000),
    denial('alice', '2026-03-10T00:00:00Z', 7, 'others'),
    denial('nobody', '2026-03-10T00:00:00Z', 7)
  ])
  t.strictSame(
    pieces(await view(db)).map(piece => piece[4]),
    [3, 142, 25]
  )
  const [row] = await db.query<{ n: number }>('SELECT count(*)::int AS n FROM quota_denials')
  t.equal(row?.n, 8, 'a user who does not exist is not counted')
})

onBoth('names the users who used most, no more than asked for, with ties in order of id', async (t, db) => {
  await declareTypes(db, { calls: { limit: -1, period: 'never' } })
  for (const [user, amount] of [
    ['d', 1],
    ['b', 5],
    ['c', 5],
    ['a', 9]
  ] as const) {
    await log(db, user, amount, '2026-03-10T01:00:00Z')
  }
  const { topUsers, uniqueUsers } = await view(db, { topUsers: 3 })
  t.strictSame(
    topUsers.map(({ userId }) => userId),
    ['a', 'b', 'c']
  )
  t.equal(uniqueUsers, 4)
})

onBoth('the usage of a level is the amount by which it grew or shrank', async (t: Test, db) => {
  await declareTypes(db, { calls: { limit: 100, kind: 'level' } })
  await log(db, 'alice', 60, '2026-03-09T01:00:00Z')
  await db.query(
    `WITH l AS (INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
       SELECT user_id, quota_type_id, -20, '2026-03-10T01:00:00Z' FROM quota_limits)
     UPDATE quota_limits SET used_amount = 40`
  )
  t.strictSame(
    pieces(await view(db)).map(([, usage]) => usage),
    [0, 60, -20]
  )
})
