import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import type { AdmittedCharge } from '../../src/store/charge/admit.ts'
import { charge } from '../../src/store/charge/charge.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { expireReservations, listExpired } from '../../src/store/charge/expire-reservations.ts'
import { openPeriods } from '../../src/store/charge/open-period.ts'
import { release } from '../../src/store/charge/release.ts'
import { setLevel } from '../../src/store/charge/set-level.ts'
import { voidCharges } from '../../src/store/charge/void.ts'
import { type Database, stateOf } from '../../src/store/database.ts'
import { fixCounters } from '../../src/store/operator/fix-counter.ts'
import { resetQuota } from '../../src/store/operator/reset-quota.ts'
import { countDenials } from '../../src/store/upkeep/count-denials.ts'
import { type Amounts, auditOf, BY, costing, hold, logOf, standing, tryHold, wanted } from '../fixtures/charges.ts'
import { crowd, server } from '../fixtures/database.ts'
import { inTransaction } from '../fixtures/in-transaction.ts'
import { violations } from '../fixtures/invariants.ts'
import { deadlocks, untilWaiting } from '../fixtures/lock-waits.ts'
import { children } from '../fixtures/processes.ts'

const pg = await server(t)

const database = async (url: string, max = 10) => {
  const db = await crowd(url, max)
  t.teardown(() => db.close())
  return db
}

async function consume(db: Database, user: string): Promise<boolean> {
  const charges = await wanted(db, { calls: 4 })
  const order = { userId: user, charges, endpoint: null, metadata: {}, idempotencyKey: v7() }
  return (await charge(db, order)).admitted
}

async function moveLevel(db: Database, user: string, move: 'set' | 'credit', amount: number): Promise<void> {
  const [wish] = await wanted(db, { bytes: amount })
  await setLevel(db, { ...wish!, userId: user, move, endpoint: null, metadata: {}, idempotencyKey: null })
}

const repairsOf = async (db: Database, user: string) =>
  (await auditOf(db, user)).filter(row => row.action === 'reconcile').length

/** What is held and what is charged when a race begins, in the closed period and in the running one. */
interface Before {
  held: AdmittedCharge[]
  charged: AdmittedCharge[]
}

async function chargeAndHold(db: Database, user: string): Promise<Before> {
  const held = await hold(db, user, { calls: 3, bytes: 1 })
  const charged = await hold(db, user, { calls: 5, bytes: 20 })
  await hold(db, user, { calls: 2 }, { leaseMs: 1 })
  await commit(db, user, costing(charged), null)
  return { held, charged }
}

/** Makes every counter of the user too high, closed periods too, so that nothing given back afterwards takes it below 0. */
async function spoil(db: Database, user: string): Promise<void> {
  const more = 'SET used_amount = used_amount + 7'
  await db.query(`UPDATE quota_limits ${more} WHERE user_id = $1`, [user])
  await db.query(`UPDATE quota_periods ${more} WHERE user_id = $1 AND closed_at IS NOT NULL`, [user])
}

/** Everything that moves a counter. */
const MOVES: Record<string, (db: Database, user: string, before: Before) => Promise<unknown>> = {
  'a reservation': (db, user) => hold(db, user, { calls: 4 }),
  'a reservation of several': (db, user) => hold(db, user, { calls: 4, bytes: 2 }),
  'a charge': consume,
  'a commit': (db, user, { held }) => commit(db, user, costing(held, { calls: 9 }), null),
  'a release': (db, user, { held }) => release(db, user, held),
  'a void of what is held': (db, user, { held }) => voidCharges(db, user, held),
  'a void of what is charged': (db, user, { charged }) => voidCharges(db, user, charged),
  'an expiry': (db, user) => expireReservations(db, user),
  'a measured level': (db, user) => moveLevel(db, user, 'set', 400),
  'a credited level': (db, user) => moveLevel(db, user, 'credit', 3),
  'a reset': (db, user) => resetQuota(db, user, null, BY),
  'a rollover': (db, user) => openPeriods(db, user, new Date(Date.now() + 40 * 86_400_000))
}

t.test('a repair and anything that moves the counter both take effect, whichever comes first', async t => {
  const db = await database(await pg.migrated())
  await declareTypes(db, { calls: { limit: 1000 }, bytes: { limit: 1000, kind: 'level' } })
  const begin = async (user: string) => {
    const old = await chargeAndHold(db, user)
    await resetQuota(db, user, null, BY)
    const young = await chargeAndHold(db, user)
    await spoil(db, user)
    return { held: [...old.held, ...young.held], charged: [...old.charged, ...young.charged] }
  }
  for (const [name, move] of Object.entries(MOVES)) {
    const [first, second] = [`${name}, then a repair`, `a repair, then ${name}`]
    let waiting: Promise<unknown> | undefined
    const before = await begin(first)
    await inTransaction(db, async inside => {
      await move(inside, first, before)
      waiting = fixCounters(db, BY)
      await untilWaiting(db)
    })
    await waiting
    t.strictSame(await violations(db), [], first)
    t.equal(await repairsOf(db, first), 3, 'two running counters and a closed one')
    const again = await begin(second)
    await inTransaction(db, async inside => {
      t.equal((await fixCounters(inside, BY)).length, 3)
      waiting = move(db, second, again)
      await untilWaiting(db)
    })
    await waiting
    t.strictSame(await violations(db), [], second)
  }
  t.equal(await deadlocks(db), 0)
})

t.test('five repairs at once repair each counter once, with one audit row', async t => {
  const url = await pg.migrated()
  const db = await database(url)
  await declareTypes(db, { calls: { limit: 1000 }, bytes: { limit: 1000, kind: 'level' } })
  const users = Array.from({ length: 10 }, (_, i) => `user-${i}`)
  for (const user of users) {
    await chargeAndHold(db, user)
    await spoil(db, user)
  }
  const fixes = await Promise.all(Array.from({ length: 5 }, () => fixCounters(db, BY)))
  t.equal(fixes.flat().length, 20)
  for (const user of users) t.equal(await repairsOf(db, user), 2)
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})

t.test('a repair that is slow to commit blocks neither the counting of denials nor other users', async t => {
  const db = await database(await pg.migrated())
  await declareTypes(db, { calls: { limit: 1000 }, bytes: { limit: 1000, kind: 'level' } })
  await hold(db, 'bob', { calls: 1 })
  await chargeAndHold(db, 'alice')
  await spoil(db, 'alice')
  await inTransaction(db, async inside => {
    await fixCounters(inside, BY)
    await countDenials(db, [{ userId: 'alice', type: 'calls', hour: new Date('2026-01-01'), denials: 1 }])
    await hold(db, 'bob', { calls: 1, bytes: 1 })
  })
  t.strictSame(await violations(db), [])
})

t.test('no charge is lost or doubled while three processes charge a counter that is corrupted and fixed', async t => {
  const url = await pg.migrated()
  const db = await database(url)
  await declareTypes(db, { calls: { limit: -1 } })
  await hold(db, 'alice', { calls: 0 })
  let done = false
  const answers = Promise.all(
    (await children(t, 3)).map(each => each.ask({ do: 'spend', url, type: 'calls', tries: 200, user: 'alice' }))
  ).finally(() => {
    done = true
  })
  let repairs = 0
  while (!done) {
    await spoil(db, 'alice')
    repairs += (await fixCounters(db, BY)).length
    const found = await violations(db)
    if (found.length > 0) t.fail(found.join('\n'))
  }
  const kept = (await answers).map(answer => (answer.value as { kept: number }).kept).reduce((a, b) => a + b)
  t.comment(`${repairs} repairs`)
  t.ok(repairs > 5)
  t.equal(kept, 600 - 3 * 67, 'each was admitted, and a third of them released')
  t.equal((await logOf(db, 'alice')).length, kept)
  t.strictSame(await standing(db, 'alice', 'calls'), [kept, 0, -1])
  t.equal(await repairsOf(db, 'alice'), repairs)
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})

/** What somebody writes into a counter by hand. */
const SPOILS = ['used_amount = used_amount + 9', 'used_amount = greatest(used_amount - 9, 0)', 'used_amount = 0']

async function spoilOne(db: Database, n: number): Promise<void> {
  const [table, which] = n % 3 ? ['quota_limits', 'true'] : ['quota_periods', 'closed_at IS NOT NULL']
  await db.query(
    `UPDATE ${table} SET ${SPOILS[n % SPOILS.length]}
      WHERE (user_id, quota_type_id, period_start) =
            (SELECT user_id, quota_type_id, period_start FROM ${table} WHERE ${which} ORDER BY random() LIMIT 1)`
  )
}

/** Retries, as an application does, what a counter that is too low refuses (23514), until it has been repaired. */
async function insist<T>(write: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await write()
    } catch (error) {
      if (stateOf(error) !== '23514') throw error
      await sleep(5)
    }
  }
}

t.test(
  'after counters are corrupted and repaired under full load, all of them are right and no commit is lost',
  async t => {
    const url = await pg.migrated()
    const clients = await Promise.all([database(url, 12), database(url, 12), database(url, 12)])
    const [db] = clients as [Database, ...Database[]]
    await declareTypes(db, { calls: { limit: 3000 }, more: { limit: -1 }, bytes: { limit: 100_000, kind: 'level' } })
    const users = ['alice', 'bob']
    for (const user of users) await hold(db, user, { calls: 0, more: 0, bytes: 0 }, { leaseMs: 1 })
    const logged = { alice: 0, bob: 0 } as Record<string, number>
    let stop = false
    const settle = async (client: Database, user: string, charges: AdmittedCharge[], n: number) => {
      if (n % 13 === 0) return
      if (n % 3 === 0) return await insist(() => release(client, user, charges))
      await insist(() => commit(client, user, costing(charges, n % 4 ? {} : { calls: 2 }), '/a'))
      if (n % 7 === 0) return await insist(() => voidCharges(client, user, charges))
      logged[user]! += charges.length
      if (n % 5 > 0) return
      await insist(() => moveLevel(client, user, 'credit', 1))
      logged[user]! += 1
    }
    const work = async (client: Database, first: number) => {
      for (let n = first; !stop; n++) {
        const user = users[n % 2]!
        if (n % 11 === 0 && (await insist(() => consume(client, user)))) logged[user]! += 1
        const amounts: Amounts = n % 5 ? { calls: 1 } : { bytes: 2, calls: 1, more: 3 }
        const outcome = await insist(() => tryHold(client, user, amounts, { leaseMs: n % 13 ? 60_000 : 1 }))
        if (outcome.admitted) await settle(client, user, outcome.charges, n)
      }
    }
    const everybody = Promise.all([
      ...Array.from({ length: 30 }, (_, i) => work(clients[i % 3]!, i)),
      (async () => {
        for (let n = 0; !stop; n++) {
          await resetQuota(db, users[n % 2]!, n % 3 ? 'calls' : null, BY)
          for (const user of await listExpired(db, 10)) await insist(() => expireReservations(db, user))
          await sleep(20)
        }
      })(),
      (async () => {
        for (let n = 0; !stop; n++) await Promise.all([spoilOne(db, n), sleep(2)])
      })()
    ])
    let settled = false
    const repairing = clients.slice(1).map(async client => {
      let repairs = 0
      while (!settled) repairs += (await fixCounters(client, BY)).length
      return repairs
    })
    await sleep(5000)
    stop = true
    await everybody
    settled = true
    const last = (await fixCounters(db, BY)).length
    const repairs = (await Promise.all(repairing)).reduce((a, b) => a + b, last)
    for (const user of users) await expireReservations(db, user)
    t.strictSame(await violations(db, { overLimit: true }), [])
    t.comment(`${logged.alice! + logged.bob!} charged, ${repairs} repairs`)
    t.ok(logged.alice! + logged.bob! > 50 && repairs > 3)
    for (const user of users) t.equal((await logOf(db, user)).length, logged[user])
    t.equal((await repairsOf(db, 'alice')) + (await repairsOf(db, 'bob')), repairs)
    t.equal(await deadlocks(db), 0)
  }
)
