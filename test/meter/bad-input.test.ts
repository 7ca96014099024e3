import { inspect } from 'node:util'
import t from 'tap'
import { meter, NO_AMOUNTS, NO_USERS } from '../fixtures/meter.ts'

const { quota, db } = await meter(t)

// What an untyped caller may pass.
type Loose = (user: unknown, type: unknown, amount: unknown, options?: unknown) => Promise<unknown>
const calls: Record<string, Loose> = {
  check: (user, type, amount) => quota.check(user as string, type as string, amount as number),
  consume: (user, type, amount, options) =>
    quota.consume(user as string, type as string, amount as number, options as object),
  reserve: (user, type, amount, options) =>
    quota.reserve(user as string, { type: type as string, amount: amount as number }, options as object),
  credit: (user, type, amount, options) =>
    quota.credit(user as string, type as string, amount as number, options as object),
  setUsage: (user, type, amount, options) =>
    quota.setUsage(user as string, type as string, amount as number, options as object)
}
const withoutAmount: Record<string, Loose> = {
  remaining: (user, type) => quota.remaining(user as string, type as string),
  reset: (user, type) => quota.reset(user as string, type as string),
  adjust: (user, type) => quota.adjust(user as string, type as string, 5)
}
const label = (name: string, value: unknown) =>
  `${name}: ${typeof value === 'string' ? value.slice(0, 20) : `${typeof value} ${inspect(value)}`}`

t.test('every call refuses an invalid user id', async t => {
  const error = { code: 'FST_QUOTA_INVALID_USER', statusCode: 400 }
  for (const user of NO_USERS) {
    for (const [name, call] of Object.entries({ ...calls, ...withoutAmount }))
      await t.rejects(call(user, 'storage', 1), error, label(name, user))
    await t.rejects(quota.all(user as string), error, label('all', user))
  }
})

t.test('every call refuses an invalid amount', async t => {
  for (const amount of NO_AMOUNTS) {
    for (const [name, call] of Object.entries(calls))
      await t.rejects(
        call('alice', 'storage', amount),
        { code: 'FST_QUOTA_INVALID_AMOUNT', statusCode: 422 },
        label(name, amount)
      )
  }
})

t.test('every call refuses an undeclared quota type', async t => {
  for (const type of ['nothing', '', 'Calls', 'calls ', "calls'; --", '__proto__', 'constructor', 'a'.repeat(1000)]) {
    for (const [name, call] of Object.entries({ ...calls, ...withoutAmount }))
      await t.rejects(call('alice', type, 1), { code: 'FST_QUOTA_UNKNOWN_TYPE', statusCode: 500 }, label(name, type))
  }
})

t.test('every charging call refuses an invalid endpoint', async t => {
  const { check: _, ...charging } = calls
  for (const endpoint of ['x'.repeat(2049), 'a\u0000b', 5, {}, []]) {
    for (const [name, call] of Object.entries(charging))
      await t.rejects(
        call('alice', 'storage', 1, { endpoint }),
        { code: 'FST_QUOTA_INVALID_CALL', statusCode: 400 },
        label(name, endpoint)
      )
  }
})

t.test('every call refuses invalid options, and reserve refuses an unknown field in a charge', async t => {
  const { check: _, ...charging } = calls
  const changing: Record<string, Loose> = {
    reset: (user, type, __, options) => quota.reset(user as string, type as string, options as object),
    adjust: (user, type, __, options) => quota.adjust(user as string, type as string, 5, options as object)
  }
  await db.query("INSERT INTO quota_users (id) VALUES ('bob')")
  for (const options of [null, 'text', 5, [], { endpiont: '/reports' }]) {
    const error = { code: 'FST_QUOTA_INVALID_CALL', message: /options/ }
    for (const [name, call] of Object.entries(charging))
      await t.rejects(call('alice', 'storage', 1, options), error, label(name, options))
    for (const [name, call] of Object.entries(changing))
      await t.rejects(call('bob', 'calls', 1, options), error, label(name, options))
  }
  await db.query("DELETE FROM quota_users WHERE id = 'bob'")
  for (const charges of [{ type: 'calls', ammount: 5 }, ['tokens', { type: 'calls', Amount: 5 }]])
    await t.rejects(quota.reserve('alice', charges as never), {
      code: 'FST_QUOTA_INVALID_CALL',
      message: /charges\.(ammount|Amount) is not known; known here: type, amount/
    })
})

t.test('a refused call writes nothing', async t => {
  for (const table of [
    'quota_users',
    'quota_limits',
    'quota_reservations',
    'usage_logs',
    "quota_audit_logs WHERE user_id <> ''"
  ]) {
    const rows = await db.query(`SELECT 1 FROM ${table}`)
    t.equal(rows.length, 0, table)
  }
})
