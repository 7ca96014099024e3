import t from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { expireReservations } from '../../src/store/charge/expire-reservations.ts'
import { release } from '../../src/store/charge/release.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { type Amounts, costing, hold, logOf, periodsOf, standing, tryHold } from '../fixtures/charges.ts'
import { crowd, server } from '../fixtures/database.ts'
import { inTransaction } from '../fixtures/in-transaction.ts'
import { violations } from '../fixtures/invariants.ts'
import { deadlocks, untilWaiting } from '../fixtures/lock-waits.ts'
import { children } from '../fixtures/processes.ts'

const pg = await server(t)

const database = async (max = 50) => {
  const db = await crowd(await pg.migrated(), max)
  t.teardown(() => db.close())
  return db
}

const atOnce = <T>(count: number, work: (i: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: count }, (_, i) => work(i)))

t.test('of 1 000 simultaneous requests of a new user, admits exactly the limit and charges each once', async t => {
  const db = await database()
  await declareTypes(db, { calls: { limit: 100 } })
  const outcomes = await atOnce(1000, async () => {
    const outcome = await tryHold(db, 'alice', { calls: 1 })
    if (outcome.admitted) await commit(db, 'alice', costing(outcome.charges), '/a')
    return outcome.admitted
  })
  t.equal(outcomes.filter(Boolean).length, 100)
  t.equal((await logOf(db, 'alice')).length, 100)
  t.strictSame(await standing(db, 'alice', 'calls'), [100, 0, 0])
  t.strictSame(await violations(db), [])
})

t.test('three processes on one database share one limit, and every charged unit has one log row', async t => {
  const url = await pg.migrated()
  const db = await connect(url)
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 150 } })
  const answers = await Promise.all(
    (await children(t, 3)).map(each => each.ask({ do: 'spend', url, type: 'calls', tries: 200, user: 'alice' }))
  )
  const kept = answers.map(answer => (answer.value as { kept: number }).kept)
  t.equal(
    kept.reduce((a, b) => a + b),
    150,
    `the whole limit, shared as ${kept}`
  )
  t.equal((await logOf(db, 'alice')).length, 150)
  t.strictSame(await standing(db, 'alice', 'calls'), [150, 0, 0])
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})

t.test('fifty simultaneous first requests of one user open each counter once, and all are admitted', async t => {
  const db = await database()
  await declareTypes(db, { a: { limit: 50 }, b: { limit: 50 }, c: { limit: 1, kind: 'level' } })
  const outcomes = await atOnce(50, i => tryHold(db, 'new', i % 2 ? { a: 1, b: 1 } : { b: 1, a: 1 }))
  t.ok(outcomes.every(outcome => outcome.admitted))
  t.strictSame(await standing(db, 'new', 'a'), [0, 50, 0])
  t.equal((await periodsOf(db, 'new', 'a')).length, 1)
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})

t.test('requests that name several types in opposite orders never deadlock', async t => {
  const db = await database()
  await declareTypes(db, { a: { limit: 200 }, b: { limit: 200 }, c: { limit: 200 } })
  const orders: Amounts[] = [
    { a: 1, b: 1, c: 1 },
    { c: 1, b: 1, a: 1 },
    { b: 1, c: 1 },
    { c: 1, a: 1 }
  ]
  await atOnce(400, async i => {
    const outcome = await tryHold(db, 'alice', orders[i % orders.length]!)
    if (!outcome.admitted) return
    const charges = i % 2 ? outcome.charges : [...outcome.charges].reverse()
    await (i % 3 ? commit(db, 'alice', costing(charges), null) : release(db, 'alice', charges))
  })
  t.equal(await deadlocks(db), 0)
  t.strictSame(await violations(db), [])
  const [, reserved] = await standing(db, 'alice', 'a')
  t.equal(reserved, 0)
})

t.test('twenty simultaneous requests that need what an expired reservation holds are all admitted', async t => {
  const db = await database()
  await declareTypes(db, { calls: { limit: 20, period: 'never' } })
  for (let round = 0; round < 10; round++) {
    const user = `user-${round}`
    await hold(db, user, { calls: 20 }, { at: new Date(Date.now() - 60_000), leaseMs: 1000 })
    const outcomes = await atOnce(20, () => tryHold(db, user, { calls: 1 }))
    t.equal(outcomes.filter(outcome => outcome.admitted).length, 20)
  }
  t.strictSame(await violations(db), [])
})

t.test('a request that needs the room of a reservation being expired waits for it, and is admitted', async t => {
  const db = await database()
  await declareTypes(db, { calls: { limit: 10, period: 'never' } })
  await hold(db, 'alice', { calls: 10 }, { at: new Date(Date.now() - 60_000), leaseMs: 1000 })
  let waiting: ReturnType<typeof tryHold> | undefined
  await inTransaction(db, async inside => {
    t.equal(await expireReservations(inside, 'alice'), 1)
    waiting = tryHold(db, 'alice', { calls: 4 })
    await Promise.race([untilWaiting(db), waiting])
  })
  t.match(await waiting, { admitted: true })
  t.strictSame(await violations(db), [])
})

t.test('a request for several types that waited for room in one of them is admitted for all of them', async t => {
  const db = await database()
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10 } })
  const full = await hold(db, 'alice', { b: 10 })
  let waiting: ReturnType<typeof tryHold> | undefined
  await inTransaction(db, async inside => {
    await release(inside, 'alice', full)
    waiting = tryHold(db, 'alice', { a: 1, b: 2 })
    await untilWaiting(db)
  })
  t.match(await waiting, { admitted: true })
  t.strictSame(await standing(db, 'alice', 'a'), [0, 1, 9])
  t.strictSame(await standing(db, 'alice', 'b'), [0, 2, 8])
  t.strictSame(await violations(db), [])
})
