import t from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { expireReservations } from '../../../src/store/charge/expire-reservations.ts'
import { release } from '../../../src/store/charge/release.ts'
import { setLevel } from '../../../src/store/charge/set-level.ts'
import { voidCharges } from '../../../src/store/charge/void.ts'
import { deleteUser } from '../../../src/store/operator/delete-user.ts'
import { listUsage } from '../../../src/store/operator/list-usage.ts'
import { both } from '../../fixtures/both.ts'
import { BY, costing, hold, logOf, standing, tryHold, wanted } from '../../fixtures/charges.ts'

const onBoth = await both(t)
const AT = new Date('2026-03-10T12:00:00.123Z')
const LATER = new Date('2026-03-10T12:30:00Z')

onBoth('a commit charges what was held, as one log row with the id and the time of the reservation', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const [held] = await hold(db, 'alice', { calls: 3 }, { at: AT })
  const balances = await commit(db, 'alice', [{ ...held!, heldAmount: 3, metadata: { job: 'ß "x"' } }], '/l3/:patient')
  t.match(balances.get('calls'), { type: 'calls', limit: 10, used: 3, reserved: 0, remaining: 7 })
  t.strictSame(await listUsage(db, {}, { limit: 10 }), [
    {
      id: held!.id,
      userId: 'alice',
      quotaType: 'calls',
      amount: 3,
      endpoint: '/l3/:patient',
      metadata: '{"job": "ß \\"x\\""}',
      createdAt: AT
    }
  ])
})

onBoth('a commit of less than was held gives the rest back', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 8 })
  await commit(db, 'alice', costing(held, { calls: 2 }), null)
  t.strictSame(await standing(db, 'alice', 'calls'), [2, 0, 8])
})

onBoth('a commit of 0 still writes its log row', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 8 }), { calls: 0 }), null)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 0, 10])
  t.equal((await logOf(db, 'alice')).length, 1)
})

onBoth(
  'a commit of more than was held is charged in full, even past the limit',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 10 } })
    const held = await hold(db, 'alice', { calls: 4 })
    const balances = await commit(db, 'alice', costing(held, { calls: 25 }), null)
    t.match(balances.get('calls'), { used: 25, reserved: 0, remaining: 0 })
    t.equal((await tryHold(db, 'alice', { calls: 1 })).admitted, false)
  },
  { overLimit: true }
)

onBoth('a commit settles several types at once, and leaves other reservations alone', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10, kind: 'level' } })
  const held = await hold(db, 'alice', { b: 2, a: 1 })
  await hold(db, 'alice', { a: 5 })
  const balances = await commit(db, 'alice', costing(held, { b: 3 }), null)
  t.match(balances.get('a'), { used: 1, reserved: 5, remaining: 4 })
  t.match(balances.get('b'), { used: 3, reserved: 0, remaining: 7 })
})

onBoth('two charges of one type in one commit are both counted', async (t, db) => {
  await declareTypes(db, { calls: { limit: 20 } })
  const held = [...(await hold(db, 'alice', { calls: 3 })), ...(await hold(db, 'alice', { calls: 4 }))]
  await commit(db, 'alice', costing(held), null)
  t.strictSame(await standing(db, 'alice', 'calls'), [7, 0, 13])
  await voidCharges(db, 'alice', held)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 0, 20])
})

onBoth('a second commit charges nothing, whatever amount it names', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 3 })
  await commit(db, 'alice', costing(held), null)
  const again = await commit(db, 'alice', costing(held, { calls: 5 }), null)
  t.match(again.get('calls'), { used: 3, reserved: 0 })
  t.strictSame(
    (await logOf(db, 'alice')).map(([amount]) => amount),
    [3]
  )
})

onBoth(
  'a commit after the reservation expired is charged in full, and only once',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 10 } })
    const held = await hold(db, 'alice', { calls: 3 }, { at: AT, leaseMs: 1000 })
    t.equal(await expireReservations(db, 'alice', LATER), 1)
    t.strictSame(await standing(db, 'alice', 'calls', LATER), [0, 0, 10])
    await hold(db, 'alice', { calls: 10 }, { at: LATER })
    const balances = await commit(db, 'alice', costing(held), null)
    t.match(balances.get('calls'), { used: 3, reserved: 10, remaining: 0 })
    await commit(db, 'alice', costing(held), null)
    t.strictSame(await logOf(db, 'alice'), [[3, AT.toISOString()]])
  },
  { overLimit: true }
)

onBoth('a commit after the lease ended, but before the reservation was given back, is charged once', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 3 }, { at: AT, leaseMs: 1000 })
  await commit(db, 'alice', costing(held), null)
  t.equal(await expireReservations(db, 'alice', LATER), 0)
  t.strictSame(await standing(db, 'alice', 'calls', LATER), [3, 0, 7])
})

onBoth('a commit whose user was deleted is refused with SQLSTATE 23502', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 3 })
  await deleteUser(db, 'alice', BY)
  await t.rejects(commit(db, 'alice', costing(held), null), { code: 'FST_QUOTA_STORE', cause: { code: '23502' } })
})

onBoth('a release gives everything back, and a second one changes nothing', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10 } })
  const held = await hold(db, 'alice', { a: 3, b: 4 })
  await hold(db, 'alice', { a: 2 })
  const balances = await release(db, 'alice', held)
  t.match(balances.get('a'), { used: 0, reserved: 2, remaining: 8 })
  t.match(balances.get('b'), { used: 0, reserved: 0, remaining: 10 })
  t.equal((await release(db, 'alice', held)).size, 0)
  t.strictSame(await standing(db, 'alice', 'a'), [0, 2, 8])
  t.strictSame(await logOf(db, 'alice'), [])
})

onBoth('a release after the commit changes nothing', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 3 })
  await commit(db, 'alice', costing(held), null)
  await release(db, 'alice', held)
  t.strictSame(await standing(db, 'alice', 'calls'), [3, 0, 7])
})

onBoth("a release or void under another user's name changes nothing for either user", async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 3 })
  await hold(db, 'bob', { calls: 1 })
  await release(db, 'bob', held)
  await voidCharges(db, 'bob', held)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 3, 7])
  t.strictSame(await standing(db, 'bob', 'calls'), [0, 1, 9])
})

onBoth('voiding undoes a charge and deletes its log row, and changes nothing the second time', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10, kind: 'level' } })
  const held = await hold(db, 'alice', { a: 3, b: 4 })
  await commit(db, 'alice', costing(held, { a: 5 }), null)
  await commit(db, 'alice', costing(await hold(db, 'alice', { a: 1 })), null)
  for (let i = 0; i < 2; i++) {
    await voidCharges(db, 'alice', held)
    t.strictSame(await standing(db, 'alice', 'a'), [1, 0, 9])
    t.strictSame(await standing(db, 'alice', 'b'), [0, 0, 10])
    t.strictSame(
      (await logOf(db, 'alice')).map(([amount]) => amount),
      [1]
    )
  }
})

onBoth('voiding gives back what is only held, and ignores a charge that was never held', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, bytes: { limit: 10, kind: 'level' } })
  const held = await hold(db, 'alice', { calls: 3, bytes: 4 })
  await voidCharges(db, 'alice', [...held, { ...held[0]!, id: v7() }])
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 0, 10])
  t.strictSame(await standing(db, 'alice', 'bytes'), [0, 0, 10])
})

onBoth('voiding is refused where a level that was set lower since would fall below what is held', async (t, db) => {
  await declareTypes(db, { bytes: { limit: 10, kind: 'level' } })
  const charged = await hold(db, 'alice', { bytes: 4 })
  await commit(db, 'alice', costing(charged), null)
  const [to] = await wanted(db, { bytes: 3 })
  await setLevel(db, { ...to!, userId: 'alice', move: 'set', endpoint: null, metadata: {}, idempotencyKey: null })
  const held = await hold(db, 'alice', { bytes: 2 })
  await t.rejects(voidCharges(db, 'alice', charged), { code: 'FST_QUOTA_STORE', cause: { code: '23514' } })
  await release(db, 'alice', held)
  t.strictSame(await standing(db, 'alice', 'bytes'), [3, 0, 7])
})

onBoth('a late commit charges a user who was created within the same millisecond as the charge', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 1 }, { at: AT, leaseMs: 1000 })
  // As if it had been rounded up, while the time of the charge is cut off.
  await db.query("UPDATE quota_users SET created_at = created_at + interval '1 millisecond'")
  await expireReservations(db, 'alice', LATER)
  await commit(db, 'alice', costing(held), null)
  t.strictSame(await logOf(db, 'alice'), [[1, AT.toISOString()]])
})

onBoth('a late commit does not charge a new user who has the id of a deleted one', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, bytes: { limit: 10, kind: 'level' } })
  const held = await hold(db, 'alice', { calls: 1, bytes: 1 }, { at: AT })
  await db.query("DELETE FROM quota_users WHERE id = 'alice'")
  await t.rejects(commit(db, 'alice', costing(held), '/a'), { code: 'FST_QUOTA_STORE' })
  const later = { at: new Date(AT.getTime() + 5) }
  const mine = await hold(db, 'alice', { calls: 2, bytes: 2 }, later)
  await t.rejects(commit(db, 'alice', costing(held), '/a'), { code: 'FST_QUOTA_STORE' })
  await commit(db, 'alice', costing(mine), '/a')
  t.strictSame(
    (await logOf(db, 'alice')).map(([amount]) => amount),
    [2, 2]
  )
})
