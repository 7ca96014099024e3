// Requests with several charges each: all or none, however many share a statement.
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import type { Admission, AdmittedCharge, WantedCharge } from '../../src/store/charge/admit.ts'
import { chargeId } from '../../src/store/charge/charge-id.ts'
import { connect } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { Reservations } from '../../src/store/group/reservations.ts'
import { adjustQuota } from '../../src/store/operator/adjust-quota.ts'
import { resetQuota } from '../../src/store/operator/reset-quota.ts'
import { type Amounts, BY, costing, logOf, standing, wanted } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { deadlocks, untilWaiting } from '../fixtures/lock-waits.ts'
import { PATIENCE_MS, scansOf, usersOf, watched } from '../fixtures/reserving.ts'

const pg = await server(t)

async function begin(t: Test, limits: { calls: number; tokens: number }) {
  const url = await pg.migrated()
  const db = await connect({ url }, { storeTimeoutMs: PATIENCE_MS })
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: limits.calls }, tokens: { limit: limits.tokens, period: 'hour' } })
  const charges = await wanted(db, { calls: 1, tokens: 1 })
  return { url, db, charges, ...reservingOn(new Reservations(db, PATIENCE_MS), charges) }
}

const reservingOn = (store: Reservations, charges: readonly WantedCharge[]) => ({
  store,
  /** One call, and so many tokens. */
  reserve: (userId: string, tokens = 1) => {
    const wanted = charges.map(charge => ({ ...charge, id: chargeId(), amount: charge.type === 'tokens' ? tokens : 1 }))
    return store.reserve(userId, wanted, 60_000)
  }
})

const chargesOf = (admission: Admission): readonly AdmittedCharge[] => {
  if (!admission.admitted) throw new Error('denied')
  return admission.charges
}

/** Makes the users known. */
const seen = (users: readonly string[], reserve: (userId: string) => Promise<unknown>) =>
  Promise.all(users.map(user => reserve(user)))

t.test('they take one statement to reserve and one to charge, and are told the balances', async t => {
  const begun = await begin(t, { calls: 10, tokens: 100 })
  const { db } = begun
  const users = usersOf(15)
  await seen(users, begun.reserve)
  const { watched: seenThrough, sent } = watched(db)
  const { reserve, store } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.charges)
  const admitted = await Promise.all([...users, ...users].map(user => reserve(user, 7)))
  t.strictSame(
    sent.map(({ on }) => on),
    ['holding']
  )
  t.match(chargesOf(admitted[0]!), [
    { type: 'calls', amount: 1, balance: { used: 0, reserved: 2, remaining: 8 } },
    { type: 'tokens', amount: 7, balance: { used: 0, reserved: 8, remaining: 92 } }
  ])
  t.match(chargesOf(admitted[15]!), [{ balance: { reserved: 3 } }, { balance: { reserved: 15 } }])
  await Promise.all(admitted.map((one, i) => store.commit(users[i % 15] as string, costing(chargesOf(one)), '/a')))
  t.ok(sent.slice(1).every(({ on }) => on === 'charging'))
  t.ok(sent.length <= 4, `${sent.length} statements`)
  t.equal((await logOf(db, 'user-3')).length, 4)
  t.strictSame(await standing(db, 'user-3', 'tokens'), [14, 1, 85])
  t.strictSame(await violations(db), [])
})

t.test('rows are looked up by key, even if planned while the tables were empty', async t => {
  const { db, url, charges, reserve } = await begin(t, { calls: 10, tokens: 10 })
  await reserve('alice')
  const { watched: seenThrough, sent } = watched(db)
  const again = reservingOn(new Reservations(seenThrough, PATIENCE_MS), charges)
  await again.store.release('alice', chargesOf(await again.reserve('alice')))
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  await sql`DELETE FROM quota_users`
  await sql`DELETE FROM quota_reservations`
  await sql`VACUUM ANALYZE`
  t.strictSame(
    sent.map(({ on }) => on),
    ['holding', 'charging']
  )
  for (const { on, text, values } of sent) {
    const scans = await scansOf(db[on as 'holding'], text, values)
    t.ok(scans.length > 3)
    for (const scan of scans) t.match(scan['Index Cond'], /user_id/, JSON.stringify(scan))
  }
})

t.test('at the edge of a limit all charges of a request are held or none, in order of arrival', async t => {
  const { db, reserve } = await begin(t, { calls: 6, tokens: 20 })
  await seen(['alice', 'bob'], reserve)
  const outcomes = await Promise.all([
    ...[9, 11, 8, 1, 2, 1].map(tokens => reserve('alice', tokens)),
    ...[1, 1].map(tokens => reserve('bob', tokens))
  ])
  t.strictSame(
    outcomes.map(({ admitted }) => admitted),
    [true, false, true, true, false, true, true, true]
  )
  t.match(outcomes[1], { violations: [{ type: 'tokens', required: 11, remaining: 10 }] })
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 5, 1])
  t.strictSame(await standing(db, 'alice', 'tokens'), [0, 20, 0])
  const full = await Promise.all([reserve('alice', 0), reserve('alice', 0)])
  t.match(full, [{ admitted: true }, { admitted: false, violations: [{ type: 'calls' }] }], 'an amount of 0 fits')
  t.strictSame(await violations(db, { overLimit: true }), [])
})

t.test('those that come while others of their user go one by one are served after them', async t => {
  const begun = await begin(t, { calls: 1_000, tokens: 100 })
  const { watched: seenThrough, sent } = watched(begun.db)
  await begun.reserve('alice', 0)
  const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.charges)
  const amounts = [60, 50, 30, 20, 9, 1, 1]
  const asked = amounts.slice(0, 3).map(tokens => reserve('alice', tokens))
  // What is shared, the same by themselves, and the first of them alone.
  for (const statements of [2, 3]) {
    while (sent.length < statements) await sleep(0)
    asked.push(...amounts.slice(asked.length, asked.length + 2).map(tokens => reserve('alice', tokens)))
  }
  t.strictSame(
    (await Promise.all(asked)).map(({ admitted }) => admitted),
    [true, false, true, false, true, true, false]
  )
  t.strictSame(await standing(begun.db, 'alice', 'tokens'), [0, 100, 0])
})

t.test('a request without room is denied by the statement that it shares, and told what there is of each', async t => {
  const begun = await begin(t, { calls: 10, tokens: 5 })
  const { db } = begun
  await seen(['alice', 'bob'], begun.reserve)
  const { watched: seenThrough, sent } = watched(db)
  const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.charges)
  const outcomes = await Promise.all([
    ...[5, 7, 5].map(tokens => reserve('alice', tokens)),
    ...[1, 3].map(tokens => reserve('bob', tokens))
  ])
  t.equal(sent.length, 1)
  t.strictSame(
    outcomes.map(({ admitted }) => admitted),
    [false, false, false, true, true]
  )
  t.match(outcomes[1], {
    violations: [{ type: 'tokens', required: 7, used: 0, reserved: 1, remaining: 4 }],
    balances: [
      { type: 'calls', reserved: 1, remaining: 9 },
      { type: 'tokens', reserved: 1 }
    ]
  })
  t.equal((outcomes[1] as { violations: unknown[] }).violations.length, 1)
  // Something could be released.
  await db.query(
    "UPDATE quota_reservations SET created_at = created_at - interval '2 minutes', expires_at = created_at - interval '1 minute'"
  )
  t.match(await Promise.all([reserve('alice', 5), reserve('alice', 5)]), [{ admitted: true }, { admitted: false }])
  t.strictSame(await violations(db), [])
})

t.test('processes that compete get exactly what there is, all or none, while operators reset and adjust', async t => {
  const { db, url, charges } = await begin(t, { calls: -1, tokens: 900 })
  const processes = await Promise.all(
    [1, 2, 3].map(async () => {
      const own = await connect({ url }, { storeTimeoutMs: PATIENCE_MS })
      t.teardown(() => own.close())
      return reservingOn(new Reservations(own, PATIENCE_MS), charges)
    })
  )
  const users = usersOf(4)
  const admitted = new Map(users.map(user => [user, 0]))
  let isOver = false
  const operating = (async () => {
    for (let i = 0; !isOver; i++) {
      if (i % 5 === 0) await resetQuota(db, 'user-3', 'tokens', BY)
      await adjustQuota(db, users[i % 2] as string, 'tokens', 900, BY)
    }
  })()
  await Promise.all(
    processes.flatMap(({ reserve, store }) =>
      Array.from({ length: 30 }, async (_, worker) => {
        const user = users[worker % 4] as string
        for (let i = 0; i < 12; i++) {
          const outcome = await reserve(user, 5)
          if (!outcome.admitted) continue
          admitted.set(user, admitted.get(user)! + 1)
          if (i % 3 === 0) await store.release(user, outcome.charges)
          else await store.commit(user, costing(outcome.charges, i % 3 === 1 ? {} : { tokens: 4 }), '/a')
        }
      })
    )
  )
  isOver = true
  await operating
  t.ok([...admitted.values()].every(count => count > 80))
  for (const user of users) t.equal((await standing(db, user, 'tokens'))[1], 0)
  t.strictSame(await violations(db, { overLimit: true }), [])
  t.equal(await deadlocks(db), 0)
})

t.test('a user whose counter somebody has locked holds up nobody else, and goes in order', async t => {
  const { db, url, reserve } = await begin(t, { calls: 10, tokens: 3 })
  const users = usersOf(20)
  await seen(users, user => reserve(user, 0))
  const other = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => other.end())
  let slow: Promise<Admission>[] = []
  await other.begin(async sql => {
    await sql`SELECT 1 FROM quota_limits WHERE user_id = 'user-7' ORDER BY quota_type_id LIMIT 1 FOR UPDATE`
    slow = [2, 2, 1].map(tokens => reserve('user-7', tokens))
    const others = await Promise.all(users.filter(user => user !== 'user-7').map(user => reserve(user)))
    t.ok(others.every(({ admitted }) => admitted))
    await untilWaiting(db)
    slow.push(reserve('user-7', 1))
  })
  t.strictSame(
    (await Promise.all(slow)).map(({ admitted }) => admitted),
    [true, false, true, false]
  )
  t.strictSame(await violations(db), [])
})

t.test('new users and ended periods are opened together', async t => {
  const begun = await begin(t, { calls: 10, tokens: 10 })
  const { db } = begun
  const { watched: seenThrough, sent } = watched(db)
  const { reserve } = reservingOn(new Reservations(seenThrough, PATIENCE_MS), begun.charges)
  const users = usersOf(200)
  t.ok((await Promise.all(users.map(user => reserve(user, 10)))).every(({ admitted }) => admitted))
  t.ok(sent.length < 60, `${sent.length} statements`)
  await db.query("UPDATE quota_limits SET period_end = date_trunc('milliseconds', now()) + interval '1 millisecond'")
  await sleep(5)
  sent.length = 0
  t.ok((await Promise.all(users.map(user => reserve(user, 10)))).every(({ admitted }) => admitted))
  t.ok(sent.length < 60, `${sent.length} statements`)
  t.strictSame(await standing(db, 'user-9', 'tokens'), [0, 10, 0])
  t.strictSame(await violations(db), [])
})

t.test('one that the database refuses neither fails nor doubles the others', async t => {
  const { db, store, charges, reserve } = await begin(t, { calls: 100, tokens: 100 })
  const users = usersOf(10)
  await seen(users, reserve)
  const [taken] = chargesOf(await reserve('user-0'))
  const outcomes = await Promise.allSettled([
    store.reserve(
      'user-0',
      charges.map((charge, i) => ({ ...charge, id: i === 0 ? taken!.id : chargeId() })),
      60_000
    ),
    ...users.map(user => reserve(user))
  ])
  t.strictSame(
    outcomes.map(({ status }) => status),
    ['rejected', ...users.map(() => 'fulfilled')]
  )
  t.strictSame(await standing(db, 'user-0', 'tokens'), [0, 3, 97])
  t.strictSame(await violations(db), [])
})

t.test('a charge whose reservation is gone is charged, beside one whose is not', async t => {
  const { db, store, reserve } = await begin(t, { calls: 10, tokens: 100 })
  const held = chargesOf(await reserve('alice', 5))
  await db.query(
    'WITH gone AS (DELETE FROM quota_reservations WHERE amount = 5) UPDATE quota_limits SET used_amount = 0 WHERE used_amount = 5'
  )
  for (let times = 0; times < 2; times++) await store.commit('alice', costing(held), '/a')
  t.strictSame(await standing(db, 'alice', 'calls'), [1, 0, 9])
  t.strictSame(await standing(db, 'alice', 'tokens'), [5, 0, 95])
  t.equal((await logOf(db, 'alice')).length, 2)
  t.strictSame(await violations(db), [])
})

t.test('the same of a database where nothing is shared', async t => {
  const { db, charges } = await begin(t, { calls: 3, tokens: 100 })
  const apart = { distributed: true }
  const { reserve, store } = reservingOn(new Reservations(db, PATIENCE_MS, apart), charges)
  const outcomes = await Promise.all([1, 2, 3, 4].map(tokens => reserve('alice', tokens)))
  t.strictSame(
    outcomes.map(({ admitted }) => admitted),
    [true, true, true, false]
  )
  await Promise.all(
    outcomes.map(
      async (one, i) =>
        one.admitted &&
        (i === 0 ? store.release('alice', one.charges) : store.commit('alice', costing(one.charges), null))
    )
  )
  t.strictSame(await standing(db, 'alice', 'tokens'), [5, 0, 95])
  t.strictSame(await violations(db as Database), [])
})

for (const way of ['as held', 'another amount'])
  t.test(`several charges that were admitted long ago leave marks: ${way}`, async t => {
    const { db, store, reserve } = await begin(t, { calls: 10, tokens: 100 })
    const [early, now] = [chargesOf(await reserve('alice', 5)), chargesOf(await reserve('bob', 5))]
    const ago = new Date(early[0]!.admittedAt.getTime() - 20 * 60_000)
    await db.query("UPDATE quota_reservations SET created_at = $1::text::timestamptz WHERE user_id = 'alice'", [
      ago.toISOString()
    ])
    const cost: Amounts = way === 'as held' ? {} : { tokens: 4 }
    await Promise.all([
      store.commit(
        'alice',
        costing(early, cost).map(charge => ({ ...charge, admittedAt: ago })),
        null
      ),
      store.commit('bob', costing(now, cost), null)
    ])
    t.strictSame(
      (await db.query<{ user_id: string }>('SELECT DISTINCT user_id FROM quota_usage_marks')).map(row => row.user_id),
      ['alice']
    )
    t.equal((await logOf(db, 'alice')).length, 2)
  })
