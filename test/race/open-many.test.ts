// What everybody needs at once: counters where users are new, and the next period where a day or a month begins.
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { setType } from '../../src/store/catalogue/set-type.ts'
import { ensureUser } from '../../src/store/charge/ensure-user.ts'
import { openPeriods } from '../../src/store/charge/open-period.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { type Database, transaction } from '../../src/store/database.ts'
import { openMany } from '../../src/store/group/open-many.ts'
import { Reservations } from '../../src/store/group/reservations.ts'
import { deleteUser } from '../../src/store/operator/delete-user.ts'
import { updateUser } from '../../src/store/operator/update-user.ts'
import { BY, type PeriodRow, periodsOf, standing, wanted } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { deadlocks, untilWaiting } from '../fixtures/lock-waits.ts'
import { begin, PATIENCE_MS, reservingOn, scansOf, usersOf, watched } from '../fixtures/reserving.ts'

const pg = await server(t)

/** Ends every running period, now. */
async function endPeriods(db: Database): Promise<void> {
  await db.query(
    "UPDATE quota_limits SET period_end = date_trunc('milliseconds', now()) + interval '1 millisecond' WHERE period_end IS NOT NULL"
  )
  await sleep(5)
}

t.test('a thousand users who are new, or whose period has ended, share statements', async t => {
  const begun = await begin(t, pg)
  const { db } = begun
  await declareTypes(db, { tokens: { limit: 5, period: 'hour' }, seats: { limit: 3, kind: 'level' } })
  const { watched: seenThrough, sent } = watched(db)
  const { reserve, charge } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.type)
  const users = usersOf(1_000)
  const admitted = await Promise.all(users.map(user => reserve(user)))
  t.ok(admitted.every(outcome => outcome.admitted))
  t.ok(sent.length < 100, `${sent.length} statements`)
  await Promise.all(admitted.map((admission, i) => charge(users[i] as string, admission)))
  await endPeriods(db)
  sent.length = 0
  const again = await Promise.all(users.map(user => reserve(user, { amount: 2 })))
  t.ok(again.every(outcome => outcome.admitted))
  t.ok(sent.length < 100, `${sent.length} statements`)
  t.match(await periodsOf(db, 'user-999', 'calls'), [
    { used: 1, limit: 1_000, closed: true },
    { used: 0, closed: false }
  ])
  t.strictSame(await standing(db, 'user-999', 'calls'), [0, 2, 998])
  t.equal((await periodsOf(db, 'user-0', 'tokens')).length, 2, 'all of a user that have ended')
  t.equal((await periodsOf(db, 'user-0', 'seats')).length, 1)
  t.strictSame(await violations(db), [])
})

t.test('rows are looked up by key, even if planned while the tables were empty', async t => {
  const { db, url, type } = await begin(t, pg)
  const { watched: seenThrough, sent } = watched(db)
  const wanted = [{ userId: 'alice', charges: [type] }]
  await openMany(seenThrough.metering, wanted)
  await endPeriods(db)
  await openMany(seenThrough.metering, wanted)
  t.equal(sent.length, 5)
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  await sql`DELETE FROM quota_users`
  await sql`VACUUM ANALYZE`
  for (const { text, values } of sent)
    for (const scan of await scansOf(db.metering, text, values))
      if (scan['Relation Name'] !== 'quota_types') t.match(scan['Index Cond'], /user_id|id =/, JSON.stringify(scan))
})

t.test("each user's periods follow that user's calendar", async t => {
  const { db, type } = await begin(t, pg)
  const other = await begin(t, pg)
  const calendars = {
    alice: { timeZone: 'Europe/Berlin' },
    bob: { timeZone: 'America/New_York', periodAnchor: '2026-01-31' },
    carol: { periodAnchor: '2024-02-29' },
    dave: {}
  }
  const users = Object.keys(calendars)
  for (const on of [db, other.db]) {
    for (const [user, calendar] of Object.entries(calendars)) {
      await ensureUser(on, user)
      await updateUser(on, user, calendar, BY)
    }
    await endPeriods(on)
  }
  const done = await openMany(
    db,
    users.map(userId => ({ userId, charges: [type] }))
  )
  t.strictSame(done, [true, true, true, true])
  const ends = new Set<string>()
  for (const user of users) {
    const { end } = (await periodsOf(db, user, 'calls')).at(-1) as PeriodRow
    await openPeriods(other.db, user)
    t.equal(end, (await periodsOf(other.db, user, 'calls')).at(-1)!.end, user)
    ends.add(end as string)
  }
  t.equal(ends.size, 4)
  t.strictSame(await violations(db), [])
})

t.test(
  'requests of one user that come while its counter is opened follow in order, and ask for nothing more',
  async t => {
    const begun = await begin(t, pg, 10)
    const { watched: seenThrough, sent } = watched(begun.db)
    const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.type)
    const first = [reserve('alice', { amount: 6 }), reserve('alice', { amount: 3 })]
    while (sent.length < 2) await sleep(0)
    const later = [reserve('alice', { amount: 2 }), reserve('alice', { amount: 1 })]
    const outcomes = await Promise.all([...first, ...later])
    t.strictSame(
      outcomes.map(({ admitted }) => admitted),
      [true, true, false, true]
    )
    t.equal(sent.length, 5)
  }
)

t.test('a user whose rows somebody has locked holds up nobody else', async t => {
  const begun = await begin(t, pg)
  const { db, url } = begun
  const { watched: seenThrough, sent } = watched(db)
  const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.type)
  const users = usersOf(40)
  await Promise.all(users.map(user => reserve(user)))
  await endPeriods(db)
  const other = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => other.end())
  let slow: Promise<unknown> | undefined
  await other.begin(async sql => {
    await sql`SELECT 1 FROM quota_limits WHERE user_id = 'user-7' FOR UPDATE`
    sent.length = 0
    slow = reserve('user-7')
    t.match(
      await Promise.all(users.filter(user => user !== 'user-7').map(user => reserve(user))),
      Array(39).fill({ admitted: true })
    )
    await untilWaiting(db)
    t.ok(sent.length < 15, `${sent.length} statements`)
  })
  t.match(await slow, { admitted: true })
  t.strictSame(await violations(db), [])
})

t.test('a user who is being deleted holds up nobody else, and the others are still opened together', async t => {
  const { db, url, reserve: reserveCall } = await begin(t, pg)
  const users = ['old', ...usersOf(40)]
  await Promise.all(users.map(user => reserveCall(user)))
  await declareTypes(db, { tokens: { limit: 5 } })
  const [tokens] = await wanted(db, { tokens: 1 })
  const { watched: seenThrough, sent } = watched(db)
  const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), tokens!)
  const other = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => other.end())
  let old: Promise<unknown> | undefined
  await other.begin(async sql => {
    await sql`DELETE FROM quota_users WHERE id = 'old'`
    const all = users.map(user => reserve(user))
    old = all.shift()
    t.match(await Promise.all(all), Array(40).fill({ admitted: true }))
    await untilWaiting(db)
    t.ok(sent.length < 15, `${sent.length} statements`)
  })
  t.match(await old, { admitted: true })
  t.strictSame(await standing(db, 'old', 'tokens'), [0, 1, 4])
})

t.test('a user who is just being made holds up nobody else', async t => {
  const { db, url, type } = await begin(t, pg)
  // Less than a lock may be waited for on these connections.
  const { reserve } = reservingOn(new Reservations(db, PATIENCE_MS / 2), type)
  const other = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => other.end())
  let young: Promise<unknown> | undefined
  await other.begin(async sql => {
    await sql`INSERT INTO quota_users (id) VALUES ('young')`
    young = reserve('young')
    t.match(await Promise.all(usersOf(40).map(user => reserve(user))), Array(40).fill({ admitted: true }))
    await untilWaiting(db)
  })
  t.match(await young, { admitted: true })
  t.strictSame(await violations(db), [])
})

t.test('a user whose calendar is none is told so, and the others are not', async t => {
  const { db, reserve } = await begin(t, pg)
  await Promise.all(['alice', 'bob', 'carol'].map(user => reserve(user)))
  await db.query("UPDATE quota_users SET time_zone = 'Mars/Olympus' WHERE id = 'bob'")
  await endPeriods(db)
  const [alice, bob, carol] = await Promise.allSettled(['alice', 'bob', 'carol'].map(user => reserve(user)))
  t.match([alice, carol], [{ value: { admitted: true } }, { value: { admitted: true } }])
  t.match(bob, { reason: { code: 'FST_QUOTA_CALENDAR', message: /Mars\/Olympus/ } })
})

t.test('a type that is not active is opened for those who ask for it, and for nobody else', async t => {
  const begun = await begin(t, pg)
  const { db } = begun
  await declareTypes(db, { old: { limit: 5 } })
  const [old] = await wanted(db, { old: 1 })
  await setType(db, 'old', { is_active: false }, BY)
  const { watched: seenThrough, sent } = watched(db)
  const store = new Reservations(seenThrough, PATIENCE_MS)
  const { reserve } = reservingOn(store, begun.type)
  const [alice, bob] = await Promise.all([store.reserve('alice', [old!], 60_000), reserve('bob')])
  t.match([alice, bob], [{ admitted: true }, { admitted: true }])
  t.equal(sent.length, 5, 'together')
  t.equal((await periodsOf(db, 'alice', 'old')).length, 1)
  t.equal((await periodsOf(db, 'alice', 'calls')).length, 1)
  t.equal((await periodsOf(db, 'bob', 'old')).length, 0)
})

t.test('what was held of a counter that is gone is not released to the new one', async t => {
  const { db, type, reserve } = await begin(t, pg)
  await Promise.all(['alice', 'bob'].map(user => reserve(user)))
  await db.query("DELETE FROM quota_users WHERE id = 'alice'")
  await openMany(db, [
    { userId: 'alice', charges: [type] },
    { userId: 'bob', charges: [type] }
  ])
  const rows = await db.query<{ user_id: string }>('SELECT user_id FROM quota_reservations')
  t.strictSame(
    rows.map(row => row.user_id),
    ['bob']
  )
  t.strictSame(await violations(db), [])
})

t.test('no endless period is opened while its type is changed, or after that', async t => {
  const { db, type } = await begin(t, pg)
  await setType(db, 'calls', { period: 'never' }, BY)
  const users = usersOf(3).map(userId => ({ userId, charges: [type] }))
  const count = async (condition = 'true') => (await db.query(`SELECT 1 FROM quota_limits WHERE ${condition}`)).length
  await transaction(db, async query => {
    await query("UPDATE quota_types SET period = 'month'")
    t.strictSame(await openMany(db.metering, users), [false, false, false], 'nobody is waited for')
    await query("UPDATE quota_types SET period = 'never'")
  })
  // Changed between the question and what is made of the answer.
  const changing: Pick<Database, 'query'> = {
    query: async (text, values, deadlineMs) => {
      if (text.includes('INSERT INTO quota_limits')) await setType(db, 'calls', { period: 'month' }, BY)
      return await db.query(text, values, deadlineMs)
    }
  }
  await openMany(changing, users)
  t.equal(await count(), 0)
  await openMany(db, users)
  t.equal(await count('period_end > now()'), 3)
})

t.test('processes that open the same users and periods at once open each once, without a deadlock', async t => {
  const { db, url, type } = await begin(t, pg, 30)
  const processes = await Promise.all(
    [1, 2, 3].map(async () => {
      const own = await connect({ url }, { storeTimeoutMs: PATIENCE_MS })
      t.teardown(() => own.close())
      return reservingOn(new Reservations(own, PATIENCE_MS), type)
    })
  )
  for (let round = 0; round < 5; round++) {
    const users = usersOf(60 + 20 * round)
    const outcomes = await Promise.all(
      processes.flatMap(({ reserve }) => [...users, ...[...users].reverse()].map(user => reserve(user)))
    )
    t.ok(outcomes.every(({ admitted }) => admitted))
    t.strictSame(await standing(db, users.at(-1)!, 'calls'), [0, 6, 24])
    t.strictSame(await violations(db), [])
    await endPeriods(db)
  }
  t.equal((await periodsOf(db, 'user-0', 'calls')).length, 5)
  t.equal(await deadlocks(db), 0)
})

t.test('users who are deleted while they are opened are opened again or told so, without a deadlock', async t => {
  const { db, url, type } = await begin(t, pg)
  const own = await connect({ url }, { storeTimeoutMs: PATIENCE_MS })
  t.teardown(() => own.close())
  const { reserve } = reservingOn(new Reservations(own, PATIENCE_MS), type)
  const users = usersOf(20)
  let isOver = false
  const deleting = (async () => {
    for (let i = 0; !isOver; i++) await deleteUser(db, users[i % 20] as string, BY)
  })()
  for (let round = 0; round < 30; round++) {
    const outcomes = await Promise.all(users.map(user => reserve(user)))
    t.ok(outcomes.every(({ admitted }) => admitted))
  }
  isOver = true
  await deleting
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})
