// What requests that share a statement owe each other: nothing.
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { v7 } from 'uuid'
import { connect } from '../../src/store/connect.ts'
import { type Database, stateOf } from '../../src/store/database.ts'
import { declareTypes } from '../../src/store/declare-types.ts'
import { listUsage } from '../../src/store/list-usage.ts'
import { Metering } from '../../src/store/metering.ts'
import { costing, logOf, standing, wanted } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { untilWaiting } from '../fixtures/lock-waits.ts'

const pg = await server(t)
const PATIENCE_MS = 20_000

async function begin(t: Test, limit = 1_000) {
  const url = await pg.migrated()
  const db = await connect({ url }, { storeTimeoutMs: PATIENCE_MS })
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit } })
  const store = new Metering(db, PATIENCE_MS)
  const { typeId, type } = (await wanted(db, { calls: 1 }))[0]!
  const reserve = (userId: string, { id = v7(), amount = 1 } = {}) =>
    store.reserve({ userId, charges: [{ id, typeId, type, amount }], leaseMs: 60_000 })
  return { url, db, store, reserve }
}

const usersOf = (count: number) => Array.from({ length: count }, (_, i) => `user-${i}`)

/** So that nobody is new, and all go together. */
const seen = async (users: readonly string[], reserve: (userId: string) => Promise<unknown>) => {
  for (const user of users) await reserve(user)
}

const counted = async (db: Database) => {
  const [row] = await db.query<{ n: number }>('SELECT count(*)::int AS n FROM quota_reservations')
  return row!.n
}

t.test('what the database refuses of one does not fail those beside it, nor is it done for them twice', async t => {
  const { db, reserve } = await begin(t)
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

t.test('what is as usual takes one statement to hold and one to charge, however many share them', async t => {
  const { db, reserve } = await begin(t)
  const users = usersOf(20)
  await seen(users, reserve)
  const sent: string[] = []
  const watch = (name: 'query' | 'metering' | 'holding' | 'charging') => {
    const lane = name === 'query' ? db : db[name]
    const query: Database['query'] = (...given) => {
      sent.push(name)
      return lane.query(...given)
    }
    return { value: name === 'query' ? query : { query } }
  }
  const watched: Database = Object.create(db, {
    query: watch('query'),
    metering: watch('metering'),
    holding: watch('holding'),
    charging: watch('charging')
  })
  const store = new Metering(watched, PATIENCE_MS)
  const { typeId, type } = (await wanted(db, { calls: 1 }))[0]!
  const order = (userId: string) => ({ userId, charges: [{ id: v7(), typeId, type, amount: 2 }], leaseMs: 60_000 })
  const outcomes = await Promise.all([...users, ...users].map(user => store.reserve(order(user))))
  t.strictSame(sent, ['holding'])
  const charging = outcomes.map((outcome, i) => {
    if (!outcome.admitted) throw new Error('denied')
    return store.commit(users[i % users.length] as string, costing(outcome.charges), '/a')
  })
  await Promise.all(charging)
  t.strictSame(sent, ['holding', 'charging'])
  t.equal((await logOf(db, 'user-19')).length, 2)
  t.strictSame(await violations(db), [])
})

t.test('no id, endpoint or note breaks out of the arrays that they share', async t => {
  const { db, store, reserve } = await begin(t)
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

t.test('what cost another amount than was held is charged together with others all the same', async t => {
  const { db, store, reserve } = await begin(t)
  const users = usersOf(5)
  await seen(users, reserve)
  const outcomes = await Promise.all(users.map(user => reserve(user, { amount: 3 })))
  await Promise.all(
    outcomes.map((outcome, i) => {
      if (!outcome.admitted) throw new Error('denied')
      return store.commit(users[i] as string, costing(outcome.charges, { calls: i }), '/a')
    })
  )
  for (const [i, user] of users.entries()) t.strictSame(await standing(db, user, 'calls'), [i, 1, 999 - i])
  t.strictSame(await violations(db), [])
})

t.test('who is held up by somebody else holds up nobody', async t => {
  const { url, db, store, reserve } = await begin(t)
  const users = usersOf(5)
  await seen(users, reserve)
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
  let isAnswered = false
  const stuck = reserve('user-0').finally(() => {
    isAnswered = true
  })
  for (const user of users.slice(1)) {
    const outcome = await reserve(user)
    if (!outcome.admitted) throw new Error('denied')
    await store.commit(user, costing(outcome.charges), '/a')
  }
  await untilWaiting(db)
  t.notOk(isAnswered)
  t.equal((await logOf(db, 'user-4')).length, 1)
  letGo()
  await holding
  t.ok((await stuck).admitted)
  t.strictSame(await violations(db), [])
})

t.test('of one user the first come are the first served, up to the limit', async t => {
  const { db, reserve } = await begin(t, 11)
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

t.test('what is given back and charged in the same statement makes room for what is reserved in it', async t => {
  const { db, store, reserve } = await begin(t, 10)
  const first = await reserve('alice', { amount: 6 })
  const second = await reserve('alice', { amount: 4 })
  if (!first.admitted || !second.admitted) throw new Error('denied')
  const [, , third] = await Promise.all([
    store.release('alice', first.charges),
    store.commit('alice', costing(second.charges), '/a'),
    reserve('alice', { amount: 6 })
  ])
  t.ok(third.admitted)
  t.notOk((await reserve('alice')).admitted)
  t.strictSame(await violations(db), [])
})
