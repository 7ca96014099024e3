import t from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import type { AdmittedCharge } from '../../src/store/charge/admit.ts'
import { amend } from '../../src/store/charge/amend.ts'
import { charge } from '../../src/store/charge/charge.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { expireReservations, listExpired } from '../../src/store/charge/expire-reservations.ts'
import { release } from '../../src/store/charge/release.ts'
import { renewReservations } from '../../src/store/charge/renew-reservations.ts'
import { setLevel } from '../../src/store/charge/set-level.ts'
import { voidCharges } from '../../src/store/charge/void.ts'
import { type Database, stateOf, transaction } from '../../src/store/database.ts'
import { chargeMany } from '../../src/store/group/charge-many.ts'
import { deleteUser } from '../../src/store/operator/delete-user.ts'
import { BY, costing, hold, logOf, standing, wanted } from '../fixtures/charges.ts'
import { crowd, server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { deadlocks, untilWaiting } from '../fixtures/lock-waits.ts'

const pg = await server(t)

const database = async (url: string, max = 20) => {
  const db = await crowd(url, max)
  t.teardown(() => db.close())
  return db
}

t.test('while three sweepers race with commits, each reservation is either released or charged, once', async t => {
  const url = await pg.migrated()
  const db = await database(url)
  const sweepers = [await database(url, 2), await database(url, 2), await database(url, 2)]
  await declareTypes(db, { a: { limit: 1000, period: 'never' }, b: { limit: 1000, period: 'never' } })
  const users = ['alice', 'bob', 'carol']
  const long = new Date(Date.now() - 60_000)
  const held = await Promise.all(
    Array.from({ length: 150 }, (_, i) =>
      hold(db, users[i % 3]!, i % 2 ? { a: 1, b: 2 } : { b: 1 }, { at: long, leaseMs: 1000 })
    )
  )
  let done = false
  const sweep = async (sweeper: Database) => {
    let expired = 0
    do for (const user of await listExpired(sweeper, 10)) expired += await expireReservations(sweeper, user)
    while (!done)
    return expired
  }
  const sweeping = Promise.all(sweepers.map(sweep))
  await Promise.all(
    held.map((charges, i) =>
      i % 3 === 2 ? undefined : commit(db, users[i % 3]!, costing([...charges].reverse()), null)
    )
  )
  done = true
  await sweeping
  const logged = await Promise.all(users.map(async user => (await logOf(db, user)).length))
  t.strictSame(logged, [75, 75, 0], 'every commit has its log rows, and nothing else has any')
  t.strictSame(await standing(db, 'carol', 'a'), [0, 0, 1000])
  t.strictSame(await listExpired(db, 10), [])
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})

t.test('simultaneous commits, releases and renewals of one reservation take effect only once', async t => {
  const db = await database(await pg.migrated())
  await declareTypes(db, { a: { limit: 10_000 }, b: { limit: 10_000 } })
  for (let round = 0; round < 40; round++) {
    const held = await hold(db, 'alice', { a: 3, b: 4 })
    const ids = held.map(({ id }) => ({ userId: 'alice', id }))
    await Promise.all([
      commit(db, 'alice', costing(held), null),
      renewReservations(db, ids, 60_000),
      release(db, 'alice', held),
      commit(db, 'alice', costing(held), null),
      release(db, 'alice', held)
    ])
  }
  // A commit after a release is a late one, and charges in full.
  t.equal((await logOf(db, 'alice')).length, 80)
  t.strictSame(await standing(db, 'alice', 'a'), [120, 0, 9880])
  t.strictSame(await standing(db, 'alice', 'b'), [160, 0, 9840])
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})

t.test('a reservation that is being settled does not hold up the renewal of others', async t => {
  const db = await database(await pg.migrated())
  await declareTypes(db, { a: { limit: 10 } })
  const both = [await hold(db, 'alice', { a: 1 }, { leaseMs: 1 }), await hold(db, 'bob', { a: 1 }, { leaseMs: 1 })]
  await transaction(db, async query => {
    await query('SELECT 1 FROM quota_reservations WHERE id = $1 FOR UPDATE', [both[0]![0]!.id])
    const renewed = renewReservations(
      db,
      both.map(([held], i) => ({ userId: ['alice', 'bob'][i] as string, id: held!.id })),
      60_000
    )
    t.equal(await Promise.race([renewed.then(() => 'done'), untilWaiting(db).then(() => 'waits')]), 'done')
  })
  t.strictSame(await listExpired(db, 10), ['alice'])
})

t.test('simultaneous voids of one charge give it back only once', async t => {
  const db = await database(await pg.migrated())
  await declareTypes(db, { a: { limit: 100 }, b: { limit: 100 } })
  const kept = await hold(db, 'alice', { a: 5, b: 5 })
  await commit(db, 'alice', costing(kept), null)
  for (let round = 0; round < 20; round++) {
    const held = await hold(db, 'alice', { b: 4, a: 3 })
    await commit(db, 'alice', costing(held), null)
    await Promise.all(Array.from({ length: 4 }, () => voidCharges(db, 'alice', held)))
  }
  t.strictSame(await standing(db, 'alice', 'a'), [5, 0, 95])
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})

t.test('a statement that waits for a counter keeps none of its reservations locked', async t => {
  const db = await database(await pg.migrated())
  await declareTypes(db, { a: { limit: 100 } })
  const ways: Record<string, (held: AdmittedCharge[]) => Promise<unknown>> = {
    commit: held => commit(db, 'alice', costing(held, { a: 2 }), null),
    release: held => release(db, 'alice', held),
    void: held => voidCharges(db, 'alice', held),
    expire: () => expireReservations(db, 'alice')
  }
  for (const [name, settle] of Object.entries(ways)) {
    const held = await hold(db, 'alice', { a: 1 }, { leaseMs: name === 'expire' ? 1 : 60_000 })
    let settled: Promise<unknown> | undefined
    await transaction(db, async query => {
      await query("SELECT 1 FROM quota_limits WHERE user_id = 'alice' FOR UPDATE")
      settled = settle(held)
      await untilWaiting(db)
      const locked = await query("SELECT 1 FROM quota_reservations WHERE user_id = 'alice' FOR UPDATE SKIP LOCKED")
      t.equal(locked.length, 1, name)
    })
    await settled
    t.equal((await standing(db, 'alice', 'a'))[1], 0, name)
  }
  t.equal(await deadlocks(db), 0)
  t.strictSame(await violations(db), [])
})

t.test('charges that share a statement do not deadlock with the deletion of their user', async t => {
  const db = await database(await pg.migrated())
  await declareTypes(db, { a: { limit: 10 } })
  const ids: string[] = []
  for (let i = 0; i < 3; i++) ids.push((await hold(db, 'alice', { a: 1 }))[0]!.id)
  ids.sort()
  const charges = ids.map(id => ({ userId: 'alice', id, amount: 1, endpoint: null, metadata: {} })).reverse()
  let both: Promise<unknown> | undefined
  await transaction(db, async query => {
    await query('SELECT 1 FROM quota_reservations WHERE id = $1 FOR UPDATE', [ids[1] as string])
    const charged = chargeMany(db.charging, charges)
    await untilWaiting(db)
    const deleted = deleteUser(db, 'alice', BY)
    both = Promise.all([charged, deleted])
    await untilWaiting(db, 2)
  })
  t.strictSame(await both, [[true, true, true], true])
  t.equal(await deadlocks(db), 0)
  t.strictSame(await logOf(db, 'alice'), [], 'what was charged meanwhile is deleted, too')
})

t.test('fifty simultaneous charges with one idempotency key charge once, and the others fail with 23505', async t => {
  const db = await database(await pg.migrated())
  await declareTypes(db, { a: { limit: 1000 }, b: { limit: 1000 } })
  await hold(db, 'alice', { a: 0, b: 0 })
  const outcomes = await Promise.all(
    Array.from({ length: 50 }, async (_, i) =>
      charge(db, {
        userId: 'alice',
        charges: await wanted(db, i % 2 ? { a: 2 } : { b: 2 }),
        endpoint: null,
        metadata: {},
        idempotencyKey: 'k'
      }).then(
        outcome => outcome.admitted,
        (error: unknown) => stateOf(error)
      )
    )
  )
  t.equal(outcomes.filter(outcome => outcome === true).length, 1)
  t.equal(outcomes.filter(outcome => outcome === '23505').length, 49)
  t.strictSame(
    (await logOf(db, 'alice')).map(([amount]) => amount),
    [2]
  )
  t.strictSame(await violations(db), [])
  t.equal(await deadlocks(db), 0)
})

for (const [title, other] of [
  ['the same charge', 0],
  ['another one', 1]
] as const)
  t.test(`a void that waits for the release of ${title} is not refused because of what was held before`, async t => {
    const db = await database(await pg.migrated())
    await declareTypes(db, { a: { limit: 10 } })
    const charges = [await hold(db, 'alice', { a: 1 }), await hold(db, 'alice', { a: 1 })] as const
    if (other === 1) await commit(db, 'alice', costing(charges[0]), null)
    let voided = Promise.resolve()
    await transaction(db, async query => {
      await query("SELECT 1 FROM quota_limits WHERE user_id = 'alice' FOR UPDATE")
      voided = voidCharges(db, 'alice', charges[0])
      await untilWaiting(db)
      await query('DELETE FROM quota_reservations WHERE id = $1', [charges[other][0]!.id])
      await query("UPDATE quota_limits SET used_amount = used_amount - 1 WHERE user_id = 'alice'")
    })
    await t.resolves(voided)
    t.strictSame(await standing(db, 'alice', 'a'), other === 0 ? [0, 1, 9] : [0, 0, 10])
    t.strictSame(await violations(db), [])
  })

for (const [title, undo] of [
  ['undone', voidCharges],
  ['amended to nothing', (db, userId, held) => amend(db, userId, costing(held, { bytes: 0 }))]
] as [string, (db: Database, userId: string, held: AdmittedCharge[]) => Promise<unknown>][])
  t.test(`a charge of a level is not ${title} below what was held while that waited`, async t => {
    const db = await database(await pg.migrated())
    await declareTypes(db, { bytes: { limit: 100, kind: 'level' } })
    const charged = await hold(db, 'alice', { bytes: 3 })
    await commit(db, 'alice', costing(charged), null)
    const first = await hold(db, 'alice', { bytes: 5 })
    const { typeId, type } = first[0]!
    const measured = { id: v7(), amount: 0, move: 'set', endpoint: null, metadata: {}, idempotencyKey: null } as const
    await setLevel(db, { userId: 'alice', typeId, type, ...measured })
    let holding: ReturnType<typeof hold> | undefined
    let undoing: Promise<unknown> | undefined
    await transaction(db, async query => {
      await query("SELECT 1 FROM quota_limits WHERE user_id = 'alice' FOR UPDATE")
      holding = hold(db, 'alice', { bytes: 5 })
      await untilWaiting(db)
      undoing = undo(db, 'alice', charged).catch(stateOf)
      await untilWaiting(db, 2)
    })
    const second = await holding
    t.equal(await undoing, '23514')
    await release(db, 'alice', first)
    await release(db, 'alice', second!)
    t.strictSame(await standing(db, 'alice', 'bytes'), [0, 0, 100])
    t.strictSame(await violations(db), [])
  })
