import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { expireReservations, listExpired } from '../../../src/store/charge/expire-reservations.ts'
import { renewReservations } from '../../../src/store/charge/renew-reservations.ts'
import type { Database } from '../../../src/store/database.ts'
import { type Live, LiveReservationSet } from '../../../src/upkeep/live-reservations.ts'
import { both } from '../../fixtures/both.ts'
import { hold, standing, tryHold } from '../../fixtures/charges.ts'

const onBoth = await both(t)
const after = (seconds: number) => new Date(Date.parse('2026-03-10T12:00:00Z') + seconds * 1000)

onBoth('a reservation holds until its lease ends, and not a moment longer', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 10 }, { at: after(0), leaseMs: 60_000 })
  t.match(await tryHold(db, 'alice', { calls: 1 }, { at: after(59.999) }), {
    admitted: false,
    violations: [{ reserved: 10 }]
  })
  t.equal((await tryHold(db, 'alice', { calls: 10 }, { at: after(60) })).admitted, true)
})

onBoth('a reserve that needs room gives back expired reservations of every type, without a sweeper', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10 } })
  await hold(db, 'alice', { a: 6, b: 9 }, { at: after(0), leaseMs: 1000 })
  await hold(db, 'alice', { a: 4 }, { at: after(0), leaseMs: 60_000 })
  const [a] = await hold(db, 'alice', { a: 5 }, { at: after(10) })
  t.match(a!.balance, { used: 0, reserved: 9, remaining: 1 })
  t.strictSame(await listExpired(db, 10, after(10)), [])
})

onBoth('a denial shows what is left once expired reservations are given back', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 6 }, { at: after(0), leaseMs: 1000 })
  t.match(await tryHold(db, 'alice', { calls: 11 }, { at: after(10) }), {
    violations: [{ used: 0, reserved: 0, remaining: 10 }]
  })
})

onBoth('an expired reservation is not in the balances, and reading them writes nothing', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 6 }, { at: after(0), leaseMs: 1000 })
  await hold(db, 'alice', { calls: 1 }, { at: after(0), leaseMs: 60_000 })
  t.strictSame(await standing(db, 'alice', 'calls', after(0.999)), [0, 7, 3])
  t.strictSame(await standing(db, 'alice', 'calls', after(1)), [0, 1, 9])
  t.equal((await db.query('SELECT 1 FROM quota_reservations')).length, 2)
})

onBoth("gives back one user's expired reservations, once, and returns how many", async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10 } })
  await hold(db, 'alice', { a: 1, b: 2 }, { at: after(0), leaseMs: 1000 })
  await hold(db, 'alice', { a: 3 }, { at: after(0), leaseMs: 1000 })
  await hold(db, 'alice', { a: 4 }, { at: after(0), leaseMs: 20_000 })
  await hold(db, 'bob', { a: 5 }, { at: after(0), leaseMs: 1000 })
  t.equal(await expireReservations(db, 'alice', after(10)), 3)
  t.equal(await expireReservations(db, 'alice', after(10)), 0)
  t.strictSame(await standing(db, 'alice', 'a', after(10)), [0, 4, 6])
  t.strictSame(await listExpired(db, 10, after(10)), ['bob'])
})

onBoth('reservations left by a DELETE in psql expire, and do not affect a new user with the same id', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10 } })
  await hold(db, 'alice', { a: 6, b: 1 }, { at: after(0), leaseMs: 1000 })
  await hold(db, 'bob', { a: 2 }, { at: after(0), leaseMs: 1000 })
  await db.query("DELETE FROM quota_users WHERE id IN ('alice', 'bob')")
  await hold(db, 'alice', { a: 1 }, { at: after(0.5), leaseMs: 60_000 })
  t.strictSame(await standing(db, 'alice', 'a', after(0.5)), [0, 1, 9])
  t.strictSame(await listExpired(db, 10, after(10)), ['bob'])
  t.equal(await expireReservations(db, 'bob', after(10)), 1)
  t.strictSame(await listExpired(db, 10, after(10)), [])
  t.strictSame(await standing(db, 'alice', 'a', after(10)), [0, 1, 9])
})

onBoth('lists each user with expired reservations once, and at most as many as asked for', async (t, db) => {
  await declareTypes(db, { a: { limit: 10 }, b: { limit: 10 } })
  for (const user of ['carol', 'alice', 'bob']) await hold(db, user, { a: 1, b: 1 }, { at: after(0), leaseMs: 1000 })
  t.strictSame(await listExpired(db, 2, after(10)), ['alice', 'bob'])
  t.strictSame(await listExpired(db, 2, after(10), 'bob'), ['carol'])
  t.strictSame(await listExpired(db, 10, after(0)), [])
})

onBoth('renewing extends only the named reservations of the named user, counted from now', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'never' } })
  const anHourAgo = new Date(Date.now() - 3_600_000)
  const [kept] = await hold(db, 'alice', { calls: 3 }, { at: anHourAgo, leaseMs: 1000 })
  const [left] = await hold(db, 'alice', { calls: 4 }, { at: anHourAgo, leaseMs: 1000 })
  await renewReservations(
    db,
    [
      { userId: 'alice', id: kept!.id },
      { userId: 'bob', id: left!.id }
    ],
    60_000
  )
  t.equal(await expireReservations(db, 'alice'), 1)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 3, 7])
  const tenMinutesOn = new Date(Date.now() + 600_000)
  t.strictSame(await listExpired(db, 10, tenMinutesOn), ['alice'])
  t.equal(await expireReservations(db, 'alice', tenMinutesOn), 1)
})

onBoth('renewing does not revive a reservation that was already given back', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const [held] = await hold(db, 'alice', { calls: 3 }, { at: after(0), leaseMs: 1000 })
  await expireReservations(db, 'alice', after(10))
  await renewReservations(db, [{ userId: 'alice', id: held!.id }], 60_000)
  t.equal((await db.query('SELECT 1 FROM quota_reservations')).length, 0)
  await renewReservations(db, [], 60_000)
})

onBoth('live reservations are renewed when due, but not once they have left or are past their limit', async (t, db) => {
  await declareTypes(db, { calls: { limit: 100, period: 'never' } })
  const anHourAgo = new Date(Date.now() - 3_600_000)
  const set = new LiveReservationSet(60_000)
  const join = async (amount: number, when: Partial<Live> = {}): Promise<Live> => {
    const [held] = await hold(db, 'alice', { calls: amount }, { at: anHourAgo, leaseMs: 1000 })
    const live: Live = {
      userId: 'alice',
      charges: [{ id: held!.id }],
      renewAt: 0,
      renewUntil: Number.POSITIVE_INFINITY,
      livePlace: -1
    }
    set.join(live)
    t.ok(live.renewAt <= performance.now() + 20_000)
    t.ok(live.renewAt > performance.now() + 10_000, 'not due before a third of the lease')
    return Object.assign(live, { renewAt: 0 }, when)
  }
  const gone = await join(1)
  const due = [await join(2), await join(4)]
  await join(8, { renewAt: Number.POSITIVE_INFINITY })
  await join(16, { renewUntil: 0 })
  due.push(await join(32))
  for (let twice = 0; twice < 2; twice++) set.leave(gone)
  await set.renew(db)
  const end = performance.now() + 20_000
  t.ok(
    due.every(({ renewAt }) => renewAt > 0 && renewAt <= end),
    'due again after a third of the lease'
  )
  t.equal(await expireReservations(db, 'alice'), 3)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 2 + 4 + 32, 100 - 38])
})

onBoth(
  'all charges of a live reservation are renewed, even after a failed attempt, and dropped ones are not',
  async (t, db) => {
    await declareTypes(db, { a: { limit: 100, period: 'never' }, b: { limit: 100, period: 'never' } })
    const when = { at: new Date(Date.now() - 3_600_000), leaseMs: 1000 }
    const set = new LiveReservationSet(60_000)
    const charges = await hold(db, 'alice', { a: 1, b: 2 }, when)
    const live = { userId: 'alice', charges, renewAt: 0, renewUntil: Number.POSITIVE_INFINITY, livePlace: -1 }
    set.join(live)
    live.renewAt = 0
    const [dropped] = await hold(db, 'alice', { a: 4 }, when)
    set.add('alice', [dropped!.id])
    set.drop([dropped!.id])
    const { now } = performance
    t.intercept(performance, 'now', { value: () => now.call(performance) + 20_001 })
    const failing: Database = { ...db, query: async () => Promise.reject(new Error('down')) }
    await t.rejects(set.renew(failing), { message: 'down' })
    await set.renew(db)
    t.equal(await expireReservations(db, 'alice'), 1)
    t.strictSame(await standing(db, 'alice', 'a'), [0, 1, 99])
    t.strictSame(await standing(db, 'alice', 'b'), [0, 2, 98])
  }
)
