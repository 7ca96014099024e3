// Requests that share a statement do not affect each other.
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import postgres from 'postgres'
import t from 'tap'
import { v7 } from 'uuid'
import { FST_QUOTA_STORE } from '../../src/quota/errors.ts'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import type { Admission } from '../../src/store/charge/admit.ts'
import { HeldSince } from '../../src/store/charge/held-since.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { SLOW_MS } from '../../src/store/connection/shared-lanes.ts'
import { type Database, stateOf, type Values } from '../../src/store/database.ts'
import { Holding } from '../../src/store/group/hold-alike.ts'
import { holdMany } from '../../src/store/group/hold-many.ts'
import { moveOneUser } from '../../src/store/group/move-one-user.ts'
import { Reservations } from '../../src/store/group/reservations.ts'
import { type Held, OUTDATED, type Told, type Wish, Wishes } from '../../src/store/group/wishes.ts'
import { adjustQuota } from '../../src/store/operator/adjust-quota.ts'
import { listUsage } from '../../src/store/operator/list-usage.ts'
import { resetQuota } from '../../src/store/operator/reset-quota.ts'
import { BY, costing, logOf, periodsOf, standing, tryHold, wanted } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { inTransaction } from '../fixtures/in-transaction.ts'
import { violations } from '../fixtures/invariants.ts'
import { untilWaiting } from '../fixtures/lock-waits.ts'
import { begin, PATIENCE_MS, reservingOn, scansOf, seen, usersOf, watched } from '../fixtures/reserving.ts'

const pg = await server(t)
const holding = () => new Holding(new HeldSince(PATIENCE_MS))
const told = (answer: Told): Held | undefined => (answer === OUTDATED ? undefined : answer)

const counted = async (db: Database) => {
  const [row] = await db.query<{ n: number }>('SELECT count(*)::int AS n FROM quota_reservations')
  return row!.n
}

t.test('a reservation that the database refuses neither fails nor doubles the others in its statement', async t => {
  const { db, reserve } = await begin(t, pg)
  const users = usersOf(20)
  await seen(users, reserve)
  const id = v7()
  await reserve('user-0', { id })
  const before = await counted(db)
  const outcomes = await Promise.allSettled(users.map(user => reserve(user, user === 'user-0' ? { id } : {})))
  t.strictSame(
    outcomes.map(outcome => outcome.status),
    users.map(user => (user === 'user-0' ? 'rejected' : 'fulfilled'))
  )
  t.equal(stateOf((outcomes[0] as PromiseRejectedResult).reason), '23505')
  t.equal(await counted(db), before + 19)
  t.strictSame(await violations(db), [])
})

t.test('an amount of 0 is admitted above a lowered limit, alone or beside requests that are refused', async t => {
  const { db, reserve, type } = await begin(t, pg, 10)
  await reserve('alice', { amount: 5 })
  await adjustQuota(db, 'alice', 'calls', 3, BY)
  const admitted = async (...amounts: number[]) =>
    (await Promise.all(amounts.map(amount => reserve('alice', { amount })))).map(outcome => outcome.admitted)
  t.strictSame(await admitted(0), [true])
  t.strictSame(await admitted(0, 0, 0), [true, true, true])
  t.strictSame(await admitted(1, 0, 1, 0), [false, true, false, true])
  const { reserve: reserveApart } = reservingOn(new Reservations(db, PATIENCE_MS, { distributed: true }), type)
  t.equal((await reserveApart('alice', { amount: 0 })).admitted, true)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 5, 0])
  t.strictSame(await violations(db, { overLimit: true }), [])
})

t.test('ordinary requests take one statement to reserve and one to charge, however many share them', async t => {
  const begun = await begin(t, pg)
  const { db } = begun
  const users = usersOf(20)
  await seen(users, begun.reserve)
  const { watched: seenThrough, sent } = watched(db)
  const { reserve, charge } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.type)
  const admitted = await Promise.all([...users, ...users].map(user => reserve(user, { amount: 2 })))
  t.strictSame(
    sent.map(({ on }) => on),
    ['holding']
  )
  await Promise.all(admitted.map((admission, i) => charge(users[i % users.length] as string, admission)))
  t.strictSame(
    sent.map(({ on }) => on),
    ['holding', 'charging']
  )
  t.equal((await logOf(db, 'user-19')).length, 2)
  t.strictSame(await violations(db), [])
})

t.test(
  'statements that many requests share look rows up by key, even if planned while the tables were empty',
  async t => {
    const begun = await begin(t, pg)
    const { watched: seenThrough, sent } = watched(begun.db)
    await begun.reserve('alice')
    const { reserve, charge } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.type)
    await charge('alice', await reserve('alice'))
    await Promise.all([1, 2].map(amount => reserve('alice', { amount })))
    const held = await tryHold(begun.db, 'alice', { calls: 1 })
    await new Reservations(seenThrough, PATIENCE_MS).release('alice', held.admitted ? held.charges : [])
    const sql = postgres(begun.url, { max: 1, onnotice: () => {} })
    t.teardown(() => sql.end())
    await sql`DELETE FROM quota_users`
    await sql`DELETE FROM quota_reservations`
    await sql`VACUUM ANALYZE`
    t.strictSame(
      sent.map(({ on }) => on),
      ['holding', 'charging', 'holding', 'charging']
    )
    t.not(sent[0]!.text, sent[2]!.text, 'one for equal amounts, one for different amounts')
    for (const { on, text, values } of sent) {
      const scans = await scansOf(begun.db[on as 'holding'], text, values)
      t.ok(scans.length > 0)
      for (const scan of scans) t.match(scan['Index Cond'], /user_id/, `${on}: ${scan['Relation Name']}`)
    }
  }
)

t.test('requests are still admitted while a charge waits for the usage log, which somebody has locked', async t => {
  const { url, db, reserve, charge } = await begin(t, pg)
  await seen(usersOf(2), reserve)
  const admission = await reserve('user-0')
  const other = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => other.end())
  let charged: Promise<unknown> | undefined
  await other.begin(async sql => {
    await sql`LOCK TABLE usage_logs IN EXCLUSIVE MODE`
    charged = charge('user-0', admission)
    await untilWaiting(db)
    await sleep(SLOW_MS)
    t.match(await Promise.all(['user-0', 'user-1'].map(user => reserve(user))), [
      { admitted: true },
      { admitted: true }
    ])
    t.match(await reserve('user-1'), { admitted: true })
  })
  await charged
  t.equal((await logOf(db, 'user-0')).length, 1)
  t.strictSame(await violations(db), [])
})

t.test('no user id, endpoint or metadata breaks out of the arrays of a shared statement', async t => {
  const { db, store, reserve } = await begin(t, pg)
  const users = ['NULL', 'a"b', 'c\\d', '\\"', '{x,y}', "o'hara", 'e/%2F', ' f ', '😀', ',', '{}']
  await seen(users, reserve)
  const outcomes = await Promise.all(users.map(user => reserve(user)))
  await Promise.all(
    outcomes.map((outcome, i) => {
      if (!outcome.admitted) throw new Error('denied')
      const note = { said: `"\\{${users[i]}},NULL` }
      const charges = costing(outcome.charges).map(charge => ({ ...charge, metadata: note }))
      return store.commit(users[i] as string, charges, `/:"a"\\,${users[i]}`)
    })
  )
  for (const user of users) {
    t.strictSame(await standing(db, user, 'calls'), [1, 1, 998], user)
    const [row] = await listUsage(db, { userId: user }, { limit: 1 })
    t.equal(row!.endpoint, `/:"a"\\,${user}`, user)
    t.strictSame(JSON.parse(row!.metadata), { said: `"\\{${user}},NULL` }, user)
  }
  t.strictSame(await violations(db), [])
})

t.test('requests charged together that cost more or less than they held are each charged their own cost', async t => {
  const { db, store, reserve } = await begin(t, pg)
  const users = usersOf(5)
  await seen(users, reserve)
  const outcomes = await Promise.all(users.map(user => reserve(user, { amount: 3 })))
  await Promise.all(
    outcomes.map((outcome, i) => {
      if (!outcome.admitted) throw new Error('denied')
      const charges = costing(outcome.charges, { calls: i }).map(charge => ({ ...charge, metadata: { i } }))
      return store.commit(users[i] as string, charges, `/${i}`)
    })
  )
  for (const [i, user] of users.entries()) {
    t.strictSame(await standing(db, user, 'calls'), [i, 1, 999 - i])
    const [row] = await listUsage(db, { userId: user }, { limit: 1 })
    t.match(row, { amount: i, endpoint: `/${i}`, metadata: `{"i": ${i}}` })
  }
  t.strictSame(await violations(db), [])
})

t.test('what was held in a closed period is released and charged there, and the running one is untouched', async t => {
  const { db, store, reserve } = await begin(t, pg, 10)
  const [first, second] = [await reserve('alice', { amount: 3 }), await reserve('alice', { amount: 4 })]
  if (!first.admitted || !second.admitted) throw new Error('denied')
  await resetQuota(db, 'alice', 'calls', BY)
  await reserve('alice', { amount: 8 })
  await store.release('alice', first.charges)
  await store.commit('alice', costing(second.charges, { calls: 2 }), '/a')
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 8, 2])
  t.match(await periodsOf(db, 'alice', 'calls'), [
    { used: 2, reserved: 0, closed: true },
    { used: 0, closed: false }
  ])
  t.strictSame(await violations(db), [])
})

t.test('a user whose counter is locked does not hold up other users', async t => {
  const { url, db, store, reserve } = await begin(t, pg)
  const users = usersOf(5)
  await seen(users, reserve)
  const held = await reserve('user-0')
  if (!held.admitted) throw new Error('denied')
  const other = postgres(url, { max: 1 })
  t.teardown(() => other.end())
  let letGo = () => {}
  let locked = () => {}
  const isLocked = new Promise<void>(resolve => {
    locked = resolve
  })
  const holding = other.begin(async sql => {
    await sql`SELECT 1 FROM quota_limits WHERE user_id = 'user-0' FOR UPDATE`
    locked()
    await new Promise<void>(resolve => {
      letGo = resolve
    })
  })
  await isLocked
  let answered = 0
  const answer = () => {
    answered += 1
  }
  const released = store.release('user-0', held.charges).finally(answer)
  const stuck = reserve('user-0').finally(answer)
  for (const [calls, user] of users.entries()) {
    if (user === 'user-0') continue
    const outcome = await reserve(user)
    if (!outcome.admitted) throw new Error('denied')
    await store.commit(user, costing(outcome.charges, { calls }), '/a')
  }
  await untilWaiting(db)
  t.equal(answered, 0)
  t.equal((await logOf(db, 'user-4')).length, 1)
  letGo()
  await holding
  await released
  t.ok((await stuck).admitted)
  t.strictSame(await standing(db, 'user-0', 'calls'), [0, 2, 998])
  t.strictSame(await violations(db), [])
})

t.test('requests of one user are admitted in order of arrival, up to the limit', async t => {
  const { db, reserve } = await begin(t, pg, 11)
  await seen(['alice'], reserve)
  const outcomes = await Promise.all(Array.from({ length: 30 }, () => reserve('alice')))
  t.strictSame(
    outcomes.map(({ admitted }) => admitted),
    outcomes.map((_, i) => i < 10)
  )
  const admitted = outcomes.flatMap(outcome => (outcome.admitted ? outcome.charges : []))
  t.strictSame(
    admitted.map(({ balance }) => balance.remaining),
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    'each is told what was left after its own turn'
  )
  t.strictSame(await violations(db), [])
})

/** Which of these amounts are admitted when they are asked for one after another. */
function inTurn(room: number, amounts: readonly number[]): boolean[] {
  let left = room
  return amounts.map(amount => {
    if (amount > left) return false
    left -= amount
    return true
  })
}

t.test(
  'requests of one user for different amounts are admitted in order of arrival, and a refused one blocks none after it',
  async t => {
    const begun = await begin(t, pg, 101)
    await seen(['alice', 'bob'], begun.reserve)
    const { watched: seenThrough, sent } = watched(begun.db)
    const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.type)
    const amounts = [60, 60, 0, 30, 20, 10, 1, 0]
    const all = await Promise.all([
      ...amounts.map(amount => reserve('alice', { amount })),
      reserve('bob', { amount: 101 })
    ])
    t.strictSame(
      all.map(({ admitted }) => admitted),
      [...inTurn(100, amounts), false]
    )
    t.strictSame(
      all.map(outcome => (outcome.admitted ? outcome.charges[0]!.balance : outcome.balances[0]!).remaining),
      [40, 40, 40, 10, 10, 0, 0, 0, 100]
    )
    t.equal(sent.length, 1, 'in one statement')
    t.strictSame(await standing(begun.db, 'alice', 'calls'), [0, 101, 0])
    t.strictSame(await violations(begun.db), [])
  }
)

t.test('requests of one user are admitted in order of arrival even if spread over several statements', async t => {
  for (const differ of [false, true]) {
    const begun = await begin(t, pg, 120)
    await seen(['alice'], begun.reserve)
    const { watched: seenThrough, sent } = watched(begun.db)
    const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.type)
    const amounts = Array.from({ length: 90 }, (_, i) => (differ ? ((i * 7) % 5) + 1 : 3))
    const all: Promise<Admission>[] = []
    for (const amount of amounts) {
      all.push(reserve('alice', { amount }))
      if (all.length % 15 === 0) await turn()
    }
    const outcomes = await Promise.all(all)
    t.ok(sent.length > 1)
    t.strictSame(
      outcomes.map(({ admitted }) => admitted),
      inTurn(119, amounts)
    )
    t.strictSame(await violations(begun.db), [])
  }
})

t.test('a new user and an ended period are dealt with once, and requests are admitted in order of arrival', async t => {
  const begun = await begin(t, pg, 10)
  const { db } = begun
  const { watched: seenThrough, sent } = watched(db)
  const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.type)
  const amounts = [4, 7, 6, 1, 1]
  const all = async () =>
    (await Promise.all(amounts.map(amount => reserve('alice', { amount })))).map(({ admitted }) => admitted)
  t.strictSame(await all(), inTurn(10, amounts))
  t.equal(sent.length, 5, 'one finds no counter, three open it, and one holds')
  await db.query("UPDATE quota_limits SET period_end = now() + interval '100 milliseconds'")
  await sleep(150)
  t.strictSame(await all(), inTurn(10, amounts))
  t.equal(sent.length, 9, 'one finds that the period has ended, two open the next, and one holds')
  t.strictSame(await violations(db), [])
})

t.test(
  'if more requests wait than fit into a statement, a user with many holds up nobody else and is served in order of arrival',
  async t => {
    const begun = await begin(t, pg)
    await seen(['alice', 'bob'], begun.reserve)
    const { watched: seenThrough, sent } = watched(begun.db)
    const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.type)
    const hot = Array.from({ length: 300 }, () => reserve('alice'))
    const other = reserve('bob')
    await Promise.all([...hot, other])
    t.ok(sent.length > 3)
    t.equal(sent[0]!.values[0], '{"alice","bob"}', 'the last of 301 is in the first statement')
    const left = (await Promise.all(hot)).map(outcome => outcome.admitted && outcome.charges[0]!.balance.remaining)
    t.strictSame(
      left,
      left.map((_, i) => 998 - i)
    )
    t.strictSame(await violations(begun.db), [])
  }
)

t.test('a request that the database refuses only on its second attempt undoes nothing done before it', async t => {
  const { db, type } = await begin(t, pg, 10)
  const { reserve } = reservingOn(new Reservations(db, PATIENCE_MS, { distributed: true }), type)
  const id = v7()
  await reserve('alice', { id })
  const outcomes = await Promise.allSettled([
    reserve('alice', { amount: 4 }),
    reserve('alice', { amount: 9 }),
    reserve('alice', { id })
  ])
  t.match(outcomes, [{ value: { admitted: true } }, { value: { admitted: false } }, { status: 'rejected' }])
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 5, 5])
  t.strictSame(await violations(db), [])
})

t.test('a request whose second attempt gets no answer is not tried again, since it may have been done', async t => {
  const { db, type } = await begin(t, pg, 10)
  let looks = 0
  const cut: Database['query'] = async <Row>(text: string, ...given: [Values?, number?]) => {
    const rows = await db.metering.query<Row>(text, ...given)
    if (text.includes('WITH item AS') && ++looks === 2)
      throw new FST_QUOTA_STORE('cut', { cause: Object.assign(new Error('cut'), { code: 'CONNECTION_CLOSED' }) })
    return rows
  }
  const on: Database = Object.create(db, { metering: { value: { query: cut } } })
  const { reserve } = reservingOn(new Reservations(on, PATIENCE_MS, { distributed: true }), type)
  await t.rejects(reserve('alice'), { cause: { code: 'CONNECTION_CLOSED' } })
  t.equal(looks, 2)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 1, 9])
})

t.test('the counters of one user are locked in a fixed order, whichever is asked for first', async t => {
  const { url, db, type } = await begin(t, pg, 10)
  await declareTypes(db, { calls: { limit: 10 }, others: { limit: 10 } })
  const store = new Reservations(db, PATIENCE_MS, { distributed: true })
  const calls = reservingOn(store, type)
  const others = reservingOn(store, (await wanted(db, { others: 1 }))[0]!)
  await seen(['alice'], calls.reserve)
  const sql = postgres(url, { max: 1 })
  t.teardown(() => sql.end())
  let both: Promise<Admission[]> | undefined
  await sql.begin(async sql => {
    const [first, second] = await sql`SELECT quota_type_id AS id FROM quota_limits ORDER BY 1`
    await sql`SELECT 1 FROM quota_limits WHERE quota_type_id = ${first!.id} FOR UPDATE`
    both = Promise.all([others.reserve('alice'), calls.reserve('alice')])
    await untilWaiting(db)
    await sql`SELECT 1 FROM quota_limits WHERE quota_type_id = ${second!.id} FOR UPDATE NOWAIT`
  })
  t.match(await both, [{ admitted: true }, { admitted: true }])
})

t.test('a request that waited for a reset is charged in the period that the reset opened', async t => {
  const { db, type } = await begin(t, pg, 10)
  const { reserve, charge } = reservingOn(new Reservations(db, PATIENCE_MS, { distributed: true }), type)
  await charge('alice', await reserve('alice', { amount: 9 }))
  let waiting: Promise<Admission> | undefined
  await inTransaction(db, async inside => {
    await inside.query('SELECT 1 FROM quota_limits FOR UPDATE')
    waiting = reserve('alice', { amount: 2 })
    await untilWaiting(db)
    await sleep(2)
    await resetQuota(inside, 'alice', 'calls', BY)
  })
  const admission = await waiting!
  t.strictSame(await violations(db), [], 'while it is held')
  await charge('alice', admission)
  t.strictSame(await standing(db, 'alice', 'calls'), [2, 0, 8])
  t.strictSame(await violations(db), [])
})

t.test('nothing is reserved in a period that has ended, even if there is room in it', async t => {
  const { db, reserve } = await begin(t, pg, 10)
  const before = await reserve('alice')
  await db.query("UPDATE quota_limits SET period_end = date_trunc('milliseconds', now())")
  const outcomes = await Promise.all([reserve('alice', { amount: 2 }), reserve('alice', { amount: 8 })])
  if (!before.admitted) throw new Error('denied')
  for (const outcome of outcomes) {
    if (!outcome.admitted) throw new Error('denied')
    t.ok(outcome.charges[0]!.periodStart > before.charges[0]!.periodStart)
  }
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 10, 0])
  t.strictSame(await violations(db), [])
})

t.test(
  'processes that compete for one counter are told each remaining amount exactly once, and get no more than the limit',
  async t => {
    const { url, db, type, reserve } = await begin(t, pg, 201)
    await seen(['alice'], reserve)
    const other = await connect({ url }, { storeTimeoutMs: PATIENCE_MS })
    t.teardown(() => other.close())
    const ways = [holding(), holding()].map(({ hold }, i) => [hold, i === 0 ? db : other] as const)
    const left: number[] = []
    while (left.length < 200) {
      const answers = await Promise.all(
        ways.map(([hold, on], i) => {
          const wish = () => ({ userId: 'alice', id: v7(), typeId: type.typeId, amount: 1, leaseMs: 60_000 })
          return hold(on.holding, Array.from({ length: 3 + 4 * i }, wish))
        })
      )
      const held = answers.flat().flatMap(answer => (told(answer)?.held ? [told(answer) as Held] : []))
      left.push(...held.map(({ limit_amount, used_amount }) => limit_amount - used_amount))
      if (held.length === 0) break
    }
    t.strictSame(
      left.sort((a, b) => b - a),
      Array.from({ length: 200 }, (_, i) => 199 - i)
    )
    t.equal(await counted(db), 201)
    t.strictSame(await violations(db), [])
  }
)

t.test(
  'a counter that stays locked is skipped after a short wait, and the next statement does not wait for it',
  async t => {
    const { url, db, type, reserve } = await begin(t, pg)
    const users = usersOf(3)
    await seen(users, reserve)
    const { hold } = holding()
    const { watched: seenThrough, sent } = watched(db)
    const other = postgres(url, { max: 1 })
    t.teardown(() => other.end())
    await other.begin(async sql => {
      await sql`SELECT 1 FROM quota_limits WHERE user_id = 'user-1' FOR UPDATE`
      for (const statements of [2, 3]) {
        const wishes = users.map(userId => ({ userId, id: v7(), typeId: type.typeId, amount: 1, leaseMs: 60_000 }))
        const answers = await hold(seenThrough.holding, wishes)
        t.strictSame(
          answers.map(answer => told(answer)?.held),
          [true, undefined, true]
        )
        t.equal(sent.length, statements)
      }
    })
    t.strictSame(await violations(db), [])
  }
)

t.test('after a shared statement that took long, the next ones skip counters that are locked', async t => {
  const { db, type, reserve } = await begin(t, pg)
  await seen(['alice'], reserve)
  const { hold } = holding()
  const { watched: seenThrough, sent } = watched(db)
  const slow: Pick<Database, 'query'> = {
    query: async (...given) => {
      await sleep(SLOW_MS + 1)
      return await seenThrough.holding.query(...given)
    }
  }
  for (const on of [seenThrough.holding, slow, seenThrough.holding]) {
    const [answer] = await hold(on, [{ userId: 'alice', id: v7(), typeId: type.typeId, amount: 1, leaseMs: 60_000 }])
    t.equal(told(answer)?.held, true)
  }
  t.strictSame(
    sent.map(({ text }) => text.includes('SKIP LOCKED')),
    [false, false, true]
  )
})

/** Each way to hold for many. */
const WAYS: Record<string, (db: Database, wishes: readonly Wish[]) => Promise<Told[]>> = {
  many: (db, wishes) => holdMany(db.holding, new Wishes(wishes, new HeldSince(PATIENCE_MS))),
  // A new one each time, which has not met a locked counter yet.
  alike: (db, wishes) => holding().hold(db.holding, wishes)
}

for (const [way, hold] of Object.entries(WAYS))
  t.test(`a request without room is denied by the statement that it shares, not by another: ${way}`, async t => {
    const { db, type, reserve } = await begin(t, pg, 10)
    await seen(['alice', 'bob'], reserve)
    await reserve('alice', { amount: 7 })
    const wish = (userId: string, amount: number) => ({
      userId,
      id: v7(),
      typeId: type.typeId,
      amount,
      leaseMs: 60_000
    })
    t.strictSame(
      (await hold(db, [wish('alice', 3), wish('bob', 3), wish('alice', 3), wish('bob', 3), wish('carol', 3)])).map(
        answer => (typeof answer === 'object' ? [answer.held, answer.limit_amount - answer.used_amount] : answer)
      ),
      [[false, 2], [true, 6], [false, 2], [true, 3], OUTDATED]
    )
    t.strictSame(await violations(db), [])
  })

const alone: (typeof WAYS)[string] = async (db, wishes) =>
  (
    await moveOneUser(
      db.metering,
      wishes.map(wish => ({ do: 'reserve', ...wish })),
      new HeldSince(PATIENCE_MS)
    )
  ).map(moved => moved && { ...moved, held: moved.done })

for (const [way, hold] of Object.entries({ ...WAYS, alone }))
  t.test(`holds also in a period that a clock which was set back says begins in the future: ${way}`, async t => {
    const { db, type, reserve } = await begin(t, pg, 10)
    await seen(['alice'], reserve)
    await db.query("UPDATE quota_reservations SET period_start = period_start + interval '1 month'")
    for (const table of ['quota_periods', 'quota_limits'])
      await db.query(
        `UPDATE ${table} SET period_start = period_start + interval '1 month', period_end = period_end + interval '1 month'`
      )
    const wish = { userId: 'alice', id: v7(), typeId: type.typeId, amount: 2, leaseMs: 1 }
    t.match(await hold(db, [wish]), [{ held: true, used_amount: 3 }])
    t.equal(await counted(db), 2)
  })

for (const [way, hold] of Object.entries(WAYS))
  t.test(`no request is refused because of a value its counter had before the lock: ${way}`, async t => {
    const { url, db, type, reserve } = await begin(t, pg, 10)
    const users = usersOf(80)
    await seen(users, reserve)
    await db.query('DELETE FROM quota_reservations')
    const other = postgres(url, { max: 1, onnotice: () => {} })
    t.teardown(() => other.end())
    let isOver = false
    const changing = (async () => {
      for (let used = 0; !isOver; used = 10 - used) await other`UPDATE quota_limits SET used_amount = ${used}`
    })()
    const wrong: unknown[] = []
    let held = 0
    for (let look = 0; look < 300; look++) {
      const wishes = users.map(userId => ({ userId, id: v7(), typeId: type.typeId, amount: 1, leaseMs: 60_000 }))
      const answers = await hold(db, wishes)
      for (const answer of answers) {
        const row = told(answer)
        if (row?.held === false && row.used_amount < 10) wrong.push(row)
        if (row?.held) held += 1
      }
    }
    isOver = true
    await changing
    t.strictSame(wrong, [])
    t.ok(held > 0)
    t.equal(await counted(db), held, 'every request that was told it holds an amount has its reservation')
  })

t.test('an expired reservation is released for the first request that needs its room', async t => {
  const { db, store, type, reserve } = await begin(t, pg, 10)
  await seen(['alice'], reserve)
  const { typeId, type: key } = type
  await store.reserve('alice', [{ id: v7(), typeId, type: key, amount: 9 }], 1)
  await sleep(20)
  const outcomes = await Promise.all([reserve('alice', { amount: 9 }), reserve('alice', { amount: 1 })])
  t.match(outcomes, [{ admitted: true }, { admitted: false }])
  t.strictSame(await violations(db), [])
})

t.test('a release makes room for reservations that share its statement', async t => {
  const { db, type } = await begin(t, pg, 10)
  const store = new Reservations(db, PATIENCE_MS, { distributed: true })
  const { reserve } = reservingOn(store, type)
  const first = await reserve('alice', { amount: 6 })
  const second = await reserve('alice', { amount: 4 })
  if (!first.admitted || !second.admitted) throw new Error('denied')
  const [released, charged, ...held] = await Promise.all([
    store.release('alice', first.charges),
    store.commit('alice', costing(second.charges), '/a'),
    reserve('alice', { amount: 4 }),
    reserve('alice', { amount: 2 })
  ])
  const balances = held.map(outcome => (outcome.admitted ? outcome.charges[0]!.balance : undefined))
  t.strictSame(
    [released.get('calls'), charged.get('calls'), ...balances].map(of => of && [of.used, of.reserved, of.remaining]),
    [
      [4, 0, 6],
      [4, 0, 6],
      [4, 4, 2],
      [4, 6, 0]
    ],
    'each is told the balance after its own turn'
  )
  t.notOk((await reserve('alice')).admitted)
  t.strictSame(await violations(db), [])
})

t.test('a release of one quota type makes no room in another', async t => {
  const { db, type } = await begin(t, pg, 10)
  await declareTypes(db, { calls: { limit: 10 }, others: { limit: 10 } })
  const store = new Reservations(db, PATIENCE_MS, { distributed: true })
  const calls = reservingOn(store, type)
  const others = reservingOn(store, (await wanted(db, { others: 1 }))[0]!)
  const held = await calls.reserve('alice', { amount: 6 })
  if (!held.admitted) throw new Error('denied')
  await others.reserve('alice', { amount: 10 })
  const [, refused] = await Promise.all([store.release('alice', held.charges), others.reserve('alice', { amount: 5 })])
  t.notOk(refused.admitted)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 0, 10])
  t.strictSame(await violations(db), [])
})
