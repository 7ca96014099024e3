import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import type { Database } from '../../../src/store/database.ts'
import {
  listUsers,
  type RankPosition,
  type UserFilter,
  type UserRank,
  type UserSort
} from '../../../src/store/operator/list-users.ts'
import { both } from '../../fixtures/both.ts'
import { costing, hold, wanted } from '../../fixtures/charges.ts'
import { ODD_USERS } from '../../fixtures/meter.ts'

const onBoth = await both(t)
const MAX = Number.MAX_SAFE_INTEGER

async function use(db: Database, userId: string, amounts: Record<string, number>, at?: Date): Promise<void> {
  await commit(db, userId, costing(await hold(db, userId, amounts, { at })), null)
}

const limitTo = (db: Database, userId: string, limit: number) =>
  db.query('UPDATE quota_limits SET limit_amount = $2::bigint WHERE user_id = $1', [userId, String(limit)])

const all = (db: Database, filter: UserFilter = {}, sort: UserSort = 'usage_percent') =>
  listUsers(db, filter, sort, { limit: 1000, offset: 0, after: undefined })

const ranks = async (...parts: Parameters<typeof all>) =>
  (await all(...parts)).map(({ userId, quota, usagePercent }) => [userId, quota.type, usagePercent])

/** Reads page after page, each from the position of the last row; `between` runs after each page. */
async function pages(db: Database, sort: UserSort, limit: number, between = async () => {}): Promise<UserRank[]> {
  const seen: UserRank[] = []
  for (let after: RankPosition | undefined; ; ) {
    const page = await listUsers(db, {}, sort, { limit, offset: 0, after })
    const last = page.at(-1)
    if (last === undefined) return seen
    seen.push(...page)
    after = { rank: last.rank, userId: last.userId }
    await between()
  }
}

const idsOf = (users: readonly UserRank[]) => users.map(({ userId }) => userId)

onBoth('ranks every user once, by the quota nearest to its limit, then by id', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 1000 }, c: { limit: -1 } })
  await use(db, 'third', { a: 1, b: 200, c: 5 })
  await use(db, 'first', { b: 1000 })
  await use(db, 'second', { a: 5, b: 500 })
  await hold(db, 'also second', { a: 5 })
  t.strictSame(await ranks(db), [
    ['first', 'b', 100],
    ['also second', 'a', 50],
    ['second', 'a', 50],
    ['third', 'b', 20]
  ])
  t.match((await all(db))[1], { email: null, quota: { used: 0, reserved: 5, remaining: 5, unit: 'call' } })
})

onBoth('ranks by the most used type, or by one given type', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, c: { limit: -1 } })
  await use(db, 'alice', { a: 9, c: 3 })
  await use(db, 'bob', { a: 2, c: 70 })
  t.strictSame(await ranks(db, {}, 'used'), [
    ['bob', 'c', null],
    ['alice', 'a', 90]
  ])
  const [a] = await wanted(db, { a: 1 })
  t.strictSame(await ranks(db, { typeId: a!.typeId }, 'used'), [
    ['alice', 'a', 90],
    ['bob', 'a', 20]
  ])
})

onBoth("filters by user, and shows the user's email, time zone and period anchor", async (t, db) => {
  await declareTypes(db, { a: { limit: 10 } })
  for (const user of ['alice', "O'Brien", 'al%']) await use(db, user, { a: 5 })
  await db.query(
    "UPDATE quota_users SET email = 'a@b', time_zone = 'Asia/Tokyo', period_anchor = '2024-02-29' WHERE id = 'alice'"
  )
  for (const user of ['alice', "O'Brien", 'al%']) t.strictSame(idsOf(await all(db, { userId: user })), [user])
  t.match(await all(db, { userId: 'alice' }, 'user_id'), [
    { email: 'a@b', timeZone: 'Asia/Tokyo', periodAnchor: '2024-02-29' }
  ])
  t.match(await all(db, { userId: 'al%' }), [{ email: null, timeZone: 'UTC', periodAnchor: null }])
  t.strictSame(await all(db, { userId: '%' }), [])
})

onBoth('filters by usage percentage, which unlimited quotas do not have', async (t, db) => {
  await declareTypes(db, { a: { limit: 3 }, c: { limit: -1 } })
  await use(db, 'alice', { a: 1, c: 10 ** 12 })
  await use(db, 'bob', { a: 2 })
  const near = async (minUsagePercent: number) => idsOf(await all(db, { minUsagePercent }))
  t.strictSame(await near(0), ['bob', 'alice'])
  t.strictSame(await near(33.33), ['bob', 'alice'])
  t.strictSame(await near(33.333333), ['bob'])
  t.strictSame(await near(66.67), ['bob'])
  t.strictSame(await near(100), [])
  const [c] = await wanted(db, { c: 1 })
  t.strictSame(await all(db, { typeId: c!.typeId, minUsagePercent: 0 }), [])
})

onBoth('names the user whose time zone is invalid', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 } })
  await use(db, 'alice', { a: 1 })
  await use(db, 'bob', { a: 2 }, new Date('2026-01-10T12:00:00Z'))
  await db.query("UPDATE quota_users SET time_zone = 'Mars/Olympus' WHERE id = 'bob'")
  await t.rejects(all(db), {
    code: 'FST_QUOTA_CALENDAR',
    message: /^user 'bob': .*time_zone Mars\/Olympus, which is not an IANA name/
  })
})

onBoth('counts nothing of a period that has ended, and shows the current one', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, bytes: { limit: 10, kind: 'level' } })
  await use(db, 'alice', { a: 9, bytes: 2 }, new Date('2026-01-10T12:00:00Z'))
  await use(db, 'bob', { a: 1 })
  const [alice, bob] = await all(db)
  t.match(
    [alice, bob],
    [
      { userId: 'alice', usagePercent: 20, quota: { type: 'bytes' } },
      { userId: 'bob', usagePercent: 10, quota: { type: 'a' } }
    ]
  )
  const [a] = await wanted(db, { a: 1 })
  const [first, ended] = await all(db, { typeId: a!.typeId })
  t.match(ended, { userId: 'alice', usagePercent: 0, quota: { used: 0, reserved: 0, remaining: 10 } })
  t.strictSame(ended!.quota.resetsAt, first!.quota.resetsAt)
  t.strictSame(ended!.quota.periodStart, first!.quota.periodStart)
  t.strictSame(await ranks(db, { typeId: a!.typeId }, 'used'), [
    ['bob', 'a', 10],
    ['alice', 'a', 0]
  ])
})

onBoth(
  'ranks a limit of 0 as used up, usage past a lowered limit above that, and copes with amounts up to 2^53−1',
  async (t, db) => {
    await declareTypes(db, { a: { limit: MAX } })
    const used = { none: 0, one: 1, most: MAX - 1, lowered: MAX, nothing: 0, unlimited: MAX }
    for (const [user, amount] of Object.entries(used)) await use(db, user, { a: amount })
    await limitTo(db, 'lowered', 1)
    await limitTo(db, 'nothing', 0)
    await limitTo(db, 'unlimited', -1)
    t.strictSame(await ranks(db), [
      ['lowered', 'a', MAX * 100],
      ['most', 'a', 100],
      ['nothing', 'a', 100],
      ['none', 'a', 0],
      ['one', 'a', 0],
      ['unlimited', 'a', null]
    ])
    for (const sort of ['usage_percent', 'used', 'user_id'] as const)
      t.strictSame(idsOf(await pages(db, sort, 1)), idsOf(await all(db, {}, sort)), sort)
  },
  { overLimit: true }
)

for (const sort of ['usage_percent', 'used', 'user_id'] as const) {
  onBoth(`pages by position show every user once, even while more are added: ${sort}`, async (t, db) => {
    await declareTypes(db, { a: { limit: 7 }, b: { limit: 9 }, c: { limit: -1 } })
    const users = [...ODD_USERS, ...Array.from({ length: 12 }, (_, i) => `user-${i}`)]
    for (const [i, user] of users.entries()) await use(db, user, { a: i % 3, b: i % 4, c: 3 })
    const whole = idsOf(await all(db, {}, sort))
    t.strictSame([...whole].sort(), [...users].sort())
    for (const limit of [1, 7]) t.strictSame(idsOf(await pages(db, sort, limit)), whole, `${limit} a page`)
    let late = 0
    const seen = idsOf(
      await pages(db, sort, 5, async () => {
        for (const id of ['!', 'user-', '~', 'Ω']) await use(db, `${id}${++late} late`, { a: late % 7 })
      })
    )
    t.equal(new Set(seen).size, seen.length, 'nobody twice')
    t.strictSame(
      seen.filter(user => users.includes(user)),
      whole
    )
  })
}

onBoth('sorts by user id as the database does, and an offset skips that many users', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 } })
  for (const user of ODD_USERS) await use(db, user, { a: 1 })
  const order = (await db.query<{ id: string }>('SELECT id FROM quota_users ORDER BY id')).map(({ id }) => id)
  t.strictSame(idsOf(await all(db, {}, 'user_id')), order)
  const page = await listUsers(db, {}, 'user_id', { limit: 3, offset: 2, after: undefined })
  t.strictSame(idsOf(page), order.slice(2, 5))
})

onBoth('leaves out a type that is switched off, unless it is named', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10 } })
  await use(db, 'alice', { a: 9, b: 1 })
  await db.query("UPDATE quota_types SET is_active = false WHERE type_key = 'a'")
  t.strictSame(await ranks(db), [['alice', 'b', 10]])
  const [a] = await wanted(db, { a: 1 })
  t.strictSame(await ranks(db, { typeId: a!.typeId }), [['alice', 'a', 90]])
  await db.query('UPDATE quota_types SET is_active = false')
  t.strictSame(await ranks(db), [])
})
