import t from 'tap'
import { meter, rowsOf } from '../fixtures/meter.ts'
import { newUser } from '../fixtures/metered.ts'

const { quota, db } = await meter(t)

t.test('tells whether an amount fits, and the balance it is measured against', async t => {
  const user = newUser()
  await quota.consume(user, 'calls', 7)
  await quota.reserve(user, { type: 'calls', amount: 1 })
  const { resetsAt, ...balance } = await quota.check(user, 'calls', 2)
  t.strictSame(balance, { allowed: true, type: 'calls', limit: 10, used: 7, reserved: 1, remaining: 2 })
  t.ok(resetsAt instanceof Date && resetsAt.getTime() > Date.now())
  t.equal((await quota.check(user, 'calls', 3)).allowed, false)
})

t.test('asks for 1 if no amount is given, and always allows 0', async t => {
  const user = newUser()
  t.equal((await quota.check(user, 'calls')).allowed, true)
  await quota.consume(user, 'calls', 10)
  t.equal((await quota.check(user, 'calls')).allowed, false)
  t.equal((await quota.check(user, 'calls', 0)).allowed, true)
})

t.test('allows any amount of an unlimited type, and of a level up to its limit', async t => {
  const user = newUser()
  t.match(await quota.check(user, 'free', Number.MAX_SAFE_INTEGER), { allowed: true, limit: -1, remaining: -1 })
  t.match(await quota.check(user, 'storage', 100), { allowed: true, resetsAt: null })
  t.match(await quota.check(user, 'storage', 101), { allowed: false, remaining: 100 })
})

t.test('writes nothing, and shows an unknown user the defaults they would get', async t => {
  const user = newUser()
  t.match(await quota.check(user, 'calls', 10), { allowed: true, limit: 10, used: 0, reserved: 0, remaining: 10 })
  t.equal(await quota.remaining(user, 'calls'), 10)
  t.equal((await quota.all(user)).length, 4)
  t.strictSame(await rowsOf(db, user), {})
})

t.test('remaining is a number that can be compared: Infinity when unlimited, 0 when over the limit', async t => {
  const user = newUser()
  await quota.consume(user, 'calls', 4)
  t.equal(await quota.remaining(user, 'calls'), 6)
  t.equal(await quota.remaining(user, 'free'), Number.POSITIVE_INFINITY)
  await quota.adjust(user, 'calls', 3)
  t.equal(await quota.remaining(user, 'calls'), 0)
  await quota.adjust(user, 'calls', -1)
  t.equal(await quota.remaining(user, 'calls'), Number.POSITIVE_INFINITY)
})

t.test('all lists every quota of the user once, in the order of their keys', async t => {
  const user = newUser()
  await quota.consume(user, 'tokens', 5)
  const all = await quota.all(user)
  t.strictSame(
    all.map(({ type, limit, used, remaining }) => [type, limit, used, remaining]),
    [
      ['calls', 10, 0, 10],
      ['free', -1, 0, -1],
      ['storage', 100, 0, 100],
      ['tokens', 1000, 5, 995]
    ]
  )
  t.strictSame(Object.keys(all[0]!), ['type', 'limit', 'used', 'reserved', 'remaining', 'periodStart', 'resetsAt'])
})
