// Charges at once, as `app.quota.consume` makes them: however many share a statement, each is exact and by itself.
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import type { Admission } from '../../src/store/charge/admit.ts'
import { chargeId } from '../../src/store/charge/charge-id.ts'
import { recallCharge } from '../../src/store/charge/recall-charge.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { stateOf } from '../../src/store/database.ts'
import { Reservations } from '../../src/store/group/reservations.ts'
import { adjustQuota } from '../../src/store/operator/adjust-quota.ts'
import { deleteUser } from '../../src/store/operator/delete-user.ts'
import { resetQuota } from '../../src/store/operator/reset-quota.ts'
import { BY, logOf, standing, tryHold, wanted } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { deadlocks, untilWaiting } from '../fixtures/lock-waits.ts'
import { PATIENCE_MS, scansOf, usersOf, watched } from '../fixtures/reserving.ts'

const pg = await server(t)

async function begin(t: Test, limit = 1_000) {
  const url = await pg.migrated()
  const db = await connect({ url }, { storeTimeoutMs: PATIENCE_MS })
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit }, tokens: { limit: 1_000 } })
  const types = await wanted(db, { calls: 1, tokens: 1 })
  return { url, db, spend: spendingOn(new Reservations(db, PATIENCE_MS)), spendingOn }

  function spendingOn(store: Reservations) {
    return (userId: string, amount = 1, { key, type = 'calls' }: { key?: string; type?: string } = {}) => {
      const { typeId } = types.find(one => one.type === type)!
      const charges = [{ id: chargeId(), typeId, type, amount }]
      return store.charge({ userId, charges, endpoint: '/job', metadata: { for: userId }, idempotencyKey: key ?? null })
    }
  }
}

const figuresOf = (admission: Admission | undefined) =>
  admission?.admitted === true
    ? [admission.charges[0]!.balance.used, admission.charges[0]!.balance.reserved]
    : admission && 'denied'

const isCharged = (admission: Admission | undefined) => admission?.admitted === true

t.test('many share a statement, and each is told the balance after its own turn', async t => {
  const begun = await begin(t, 10)
  const users = usersOf(30)
  await Promise.all(users.map(user => begun.spend(user)))
  await tryHold(begun.db, 'user-3', { calls: 2 })
  const { watched: seenThrough, sent } = watched(begun.db)
  const spend = begun.spendingOn(new Reservations(seenThrough, PATIENCE_MS))
  const all = await Promise.all([...users, ...users].map((user, i) => spend(user, i < 30 ? 2 : 5)))
  t.ok(sent.length <= 3, `${sent.length} statements`)
  t.ok(sent.every(({ on }) => on === 'charging'))
  t.strictSame(figuresOf(all[0]), [3, 0])
  t.strictSame(figuresOf(all[30]), [8, 0])
  t.strictSame(figuresOf(all[3]), [3, 2])
  t.strictSame(figuresOf(all[33]), [8, 2])
  t.strictSame(await standing(begun.db, 'user-29', 'calls'), [8, 0, 2])
  const [row] = await begun.db.query<{ text: string }>(
    `SELECT string_agg(amount || endpoint || metadata, ' ' ORDER BY amount) AS text FROM usage_logs WHERE user_id = 'user-29'`
  )
  t.equal(row!.text, '1/job{"for": "user-29"} 2/job{"for": "user-29"} 5/job{"for": "user-29"}')
  t.strictSame(await violations(begun.db), [])
})

t.test('three processes charge exactly the limit, whatever the amounts', async t => {
  const begun = await begin(t, 100)
  const stores = await Promise.all(
    [1, 2, 3].map(async () => {
      const db = await connect({ url: begun.url }, { storeTimeoutMs: PATIENCE_MS })
      t.teardown(() => db.close())
      return begun.spendingOn(new Reservations(db, PATIENCE_MS))
    })
  )
  const amounts: number[] = []
  await Promise.all(
    Array.from({ length: 600 }, async (_, i) => {
      const amount = 1 + (i % 3)
      if (isCharged(await stores[i % 3]!(i % 2 === 0 ? 'alice' : 'bob', amount))) amounts.push(amount)
    })
  )
  t.equal(
    amounts.reduce((sum, amount) => sum + amount, 0),
    200
  )
  t.strictSame(await standing(begun.db, 'alice', 'calls'), [100, 0, 0])
  t.strictSame(await standing(begun.db, 'bob', 'calls'), [100, 0, 0])
  t.equal((await logOf(begun.db, 'alice')).length + (await logOf(begun.db, 'bob')).length, amounts.length)
  t.equal(await deadlocks(begun.db), 0)
  t.strictSame(await violations(begun.db), [])
})

t.test('first come, first served: whoever fits after those before it is charged, and the others are told', async t => {
  const { spend, db } = await begin(t, 10)
  await spend('alice', 1)
  const all = await Promise.all([6, 5, 3, 1, 0].map(amount => spend('alice', amount)))
  t.strictSame(all.map(figuresOf), [[7, 0], 'denied', [10, 0], 'denied', [10, 0]])
  t.match(all[1], { violations: [{ type: 'calls', limit: 10, required: 5 }] })
  t.match(all[3], { violations: [{ type: 'calls', limit: 10, used: 10, remaining: 0, required: 1 }] })
  await adjustQuota(db, 'alice', 'calls', 4, BY)
  t.strictSame(figuresOf(await spend('alice', 0)), [10, 0], 'nothing fits even past the limit')
  t.strictSame(await violations(db, { overLimit: true }), [])
})

t.test('those for whom a statement leaves no room are told so by it', async t => {
  const begun = await begin(t, 11)
  await begun.spend('alice')
  const { watched: seenThrough, sent } = watched(begun.db)
  const spend = begun.spendingOn(new Reservations(seenThrough, PATIENCE_MS))
  const all = await Promise.all(Array.from({ length: 14 }, () => spend('alice')))
  t.equal(all.filter(isCharged).length, 10)
  t.match(all.at(-1), { violations: [{ used: 11, remaining: 0 }] })
  t.equal(sent.length, 1)
})

t.test('those that come while the counter is opened are charged in order, even if they fit without it', async t => {
  const begun = await begin(t, 10)
  const { watched: seenThrough, sent } = watched(begun.db)
  const spend = begun.spendingOn(new Reservations(seenThrough, PATIENCE_MS))
  const first = [spend('alice', 6), spend('alice', 3)]
  while (sent.length < 2) await sleep(0)
  const later = [spend('alice', 2), spend('alice', 1)]
  t.strictSame((await Promise.all([...first, ...later])).map(figuresOf), [[6, 0], [9, 0], 'denied', [10, 0]])
  t.equal(sent.filter(({ on }) => on === 'charging').length, 2)
})

t.test('a user who has used up a period that has ended is charged in the next one', async t => {
  const begun = await begin(t, 2)
  for (const options of [{}, { distributed: true }]) {
    const spend = begun.spendingOn(new Reservations(begun.db, PATIENCE_MS, options))
    t.strictSame((await Promise.all([2, 1].map(amount => spend('alice', amount)))).map(figuresOf), [[2, 0], 'denied'])
    await begun.db.query(
      "UPDATE quota_limits SET period_end = date_trunc('milliseconds', now()) + interval '1 millisecond'"
    )
    await sleep(5)
    t.strictSame(figuresOf(await spend('alice', 1)), [1, 0])
    await resetQuota(begun.db, 'alice', 'calls', BY)
  }
  t.strictSame(await violations(begun.db), [])
})

t.test('a thousand new users, and those whose period has ended, share statements', async t => {
  const begun = await begin(t)
  const { watched: seenThrough, sent } = watched(begun.db)
  const spend = begun.spendingOn(new Reservations(seenThrough, PATIENCE_MS))
  const users = usersOf(1_000)
  t.ok((await Promise.all(users.map(user => spend(user)))).every(isCharged))
  t.ok(sent.length < 120, `${sent.length} statements`)
  await begun.db.query(
    "UPDATE quota_limits SET period_end = date_trunc('milliseconds', now()) + interval '1 millisecond'"
  )
  await sleep(5)
  sent.length = 0
  const all = await Promise.all(users.map(user => spend(user, 2)))
  t.ok(all.every(one => figuresOf(one)![0] === 2))
  t.ok(sent.length < 120, `${sent.length} statements`)
  t.strictSame(await violations(begun.db), [])
})

t.test('rows are looked up by key, even if planned while the tables were empty', async t => {
  const { db, url, spendingOn } = await begin(t)
  const { watched: seenThrough, sent } = watched(db)
  const spend = spendingOn(new Reservations(seenThrough, PATIENCE_MS))
  await spend('alice')
  sent.length = 0
  await spend('alice', 1, { key: 'k' })
  await spendingOn(new Reservations(seenThrough, PATIENCE_MS, { distributed: true }))('alice', 1, { key: 'l' })
  t.equal(sent.length, 2)
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  await sql`DELETE FROM quota_users`
  await sql`DELETE FROM usage_logs`
  await sql`VACUUM ANALYZE`
  for (const { text, values } of sent)
    for (const scan of await scansOf(db.metering, text, values))
      t.match(scan['Index Cond'], /user_id/, JSON.stringify(scan))
})

t.test('a user whose counter somebody has locked holds up nobody else, and is served in order', async t => {
  const { db, url, spend } = await begin(t, 10)
  const users = usersOf(40)
  await Promise.all(users.map(user => spend(user)))
  const other = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => other.end())
  let slow: Promise<(Admission | undefined)[]> | undefined
  await other.begin(async sql => {
    await sql`SELECT 1 FROM quota_limits WHERE user_id = 'user-7' FOR UPDATE`
    slow = Promise.all([2, 3, 4].map(amount => spend('user-7', amount)))
    // For longer than a statement for many users waits: behind that, one that comes may be charged first.
    await untilWaiting(db, 1, 100)
    const later = spend('user-7', 1)
    slow = Promise.all([slow, later]).then(([first, last]) => [...first, last])
    t.ok((await Promise.all(users.filter(user => user !== 'user-7').map(user => spend(user)))).every(isCharged))
  })
  t.strictSame((await slow)?.map(figuresOf), [[3, 0], [6, 0], [10, 0], 'denied'])
  t.strictSame(await violations(db), [])
})

t.test('where what is held has expired, a charge takes its room', async t => {
  const { db, spend } = await begin(t, 10)
  await spend('alice', 3)
  await tryHold(db, 'alice', { calls: 7 }, { leaseMs: 1 })
  await sleep(20)
  const all = await Promise.all([4, 3, 1].map(amount => spend('alice', amount)))
  t.strictSame(all.map(figuresOf), [[7, 0], [10, 0], 'denied'])
  t.strictSame(await violations(db), [])
})

t.test('a known key is left out, and the first answer is that of its own turn', async t => {
  const { db, spend } = await begin(t, 20)
  await tryHold(db, 'alice', { calls: 2 })
  const first = await Promise.all([
    spend('alice', 3, { key: 'a' }),
    spend('alice', 4, { key: 'b' }),
    spend('bob', 5, { key: 'a' })
  ])
  t.strictSame(first.map(figuresOf), [
    [3, 2],
    [7, 2],
    [5, 0]
  ])
  for (const [user, key, [used, reserved]] of [
    ['alice', 'a', [3, 2]],
    ['alice', 'b', [7, 2]],
    ['bob', 'a', [5, 0]]
  ] as const)
    t.match(await recallCharge(db, user, key), { balance: { limit: 20, used, reserved } })
  const again = await Promise.all([
    spend('alice', 3, { key: 'a' }),
    spend('alice', 11, { key: 'c' }),
    spend('alice', 4, { key: 'b' })
  ])
  t.strictSame(again.map(figuresOf), [undefined, [18, 2], undefined], 'the known ones take no room from the others')
  t.strictSame(await violations(db), [])
})

t.test('a key that several processes use at once is charged once, and those beside it are too', async t => {
  const begun = await begin(t)
  const users = usersOf(10)
  const stores = await Promise.all(
    [1, 2, 3].map(async () => {
      const db = await connect({ url: begun.url }, { storeTimeoutMs: PATIENCE_MS })
      t.teardown(() => db.close())
      return begun.spendingOn(new Reservations(db, PATIENCE_MS))
    })
  )
  await Promise.all(users.map(user => begun.spend(user)))
  for (let round = 0; round < 20; round++) {
    const outcomes = await Promise.allSettled(
      stores.flatMap((spend, s) => [
        ...(s === 1 ? users.toReversed() : users).map((user, i) =>
          spend(user, 1, { key: `same-${round}`, type: (i + s) % 2 === 0 ? 'calls' : 'tokens' })
        ),
        ...users.map(user => spend(user, 1))
      ])
    )
    for (const outcome of outcomes)
      if (outcome.status === 'rejected')
        t.equal(stateOf(outcome.reason), '23505', 'the key was taken by another process')
  }
  for (const user of users) {
    const [calls] = await standing(begun.db, user, 'calls')
    const [tokens] = await standing(begun.db, user, 'tokens')
    t.equal((calls as number) + (tokens as number), 1 + 20 * 4, user)
  }
  t.equal(await deadlocks(begun.db), 0)
  t.strictSame(await violations(begun.db), [])
})

t.test('while a key is being taken elsewhere, those who share its statement are charged once it is', async t => {
  const { db, url, spend } = await begin(t)
  const users = usersOf(5)
  await Promise.all(users.map(user => spend(user)))
  const other = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => other.end())
  let all: Promise<(Admission | undefined)[]> | undefined
  await other.begin(async sql => {
    await sql`INSERT INTO quota_idempotency_keys SELECT 'user-2', 'k', quota_type_id, 1, '{}' FROM quota_limits WHERE user_id = 'user-2' LIMIT 1`
    all = Promise.all(users.map(user => spend(user, 1, { key: 'k' })))
    await untilWaiting(db)
  })
  for (const [i, outcome] of ((await all) ?? []).entries())
    t.strictSame(figuresOf(outcome), i === 2 ? undefined : [2, 0])
  t.strictSame(await standing(db, 'user-2', 'calls'), [1, 0, 999])
  t.strictSame(await violations(db), [])
})

t.test('of calls with one key in one process, one is asked for at a time, and only until it is charged', async t => {
  const begun = await begin(t, 10)
  const { watched: seenThrough, sent } = watched(begun.db)
  const spend = begun.spendingOn(new Reservations(seenThrough, PATIENCE_MS))
  await spend('alice', 8)
  sent.length = 0
  const all = await Promise.all([5, 4, 2, 2, 2].map(amount => spend('alice', amount, { key: 'k' })))
  t.strictSame(all.map(figuresOf), ['denied', 'denied', [10, 0], undefined, undefined])
  t.equal(sent.length, 3)
})

t.test('with `distributed`, every statement is about one user', async t => {
  const begun = await begin(t, 50)
  const { watched: seenThrough, sent } = watched(begun.db)
  const spend = begun.spendingOn(new Reservations(seenThrough, PATIENCE_MS, { distributed: true }))
  const users = usersOf(4)
  const all = await Promise.all(Array.from({ length: 240 }, (_, i) => spend(users[i % 4] as string)))
  t.equal(all.filter(isCharged).length, 200)
  for (const { values } of sent)
    t.ok(users.filter(user => JSON.stringify(values).includes(user)).length < 2, JSON.stringify(values))
  t.ok(sent.length < 60, `${sent.length} statements`)
  t.strictSame(await violations(begun.db), [])
})

t.test('while users are deleted and reset, every charge is counted or refused', async t => {
  const { db, spend } = await begin(t)
  const users = usersOf(10)
  let isOver = false
  const disturbing = (async () => {
    for (let i = 0; !isOver; i++) {
      const user = users[i % 10] as string
      if (i % 3 === 0) await deleteUser(db, user, BY)
      else await resetQuota(db, user, 'calls', BY)
    }
  })()
  for (let round = 0; round < 20; round++) await Promise.all([...users, ...users].map(user => spend(user)))
  isOver = true
  await disturbing
  t.equal(await deadlocks(db), 0)
  t.strictSame(await violations(db), [])
})

t.test('charges that meet requests on the same counters are counted with them', async t => {
  const begun = await begin(t, 300)
  const store = new Reservations(begun.db, PATIENCE_MS)
  const spend = begun.spendingOn(store)
  const { typeId } = (await wanted(begun.db, { calls: 1 }))[0]!
  let admitted = 0
  await Promise.all(
    Array.from({ length: 800 }, async (_, i) => {
      const user = i % 4 < 2 ? 'alice' : 'bob'
      if (i % 2 === 0) {
        if (isCharged(await spend(user))) admitted += 1
        return
      }
      const outcome = await store.reserve(user, [{ id: chargeId(), typeId, type: 'calls', amount: 1 }], 60_000)
      if (!outcome.admitted) return
      const charges = outcome.charges.map(one => ({ ...one, heldAmount: 1, metadata: {} }))
      await store.commit(user, charges, '/a')
      admitted += 1
    })
  )
  t.equal(admitted, 600)
  t.strictSame(await standing(begun.db, 'alice', 'calls'), [300, 0, 0])
  t.strictSame(await standing(begun.db, 'bob', 'calls'), [300, 0, 0])
  t.strictSame(await violations(begun.db), [])
})
