import t from 'tap'
import { errors } from '../../src/index.ts'
import { figures, meters, ODD_USERS, rowsOf, tally } from '../fixtures/meter.ts'
import { logsOf, newUser } from '../fixtures/metered.ts'

const { onEach } = await meters(t)

onEach('charges at once, with one log row, and returns the balance after the charge', async (t, { quota, db }) => {
  const user = newUser()
  const balance = await quota.consume(user, 'calls', 3, { endpoint: 'nightly', metadata: { job: 7 } })
  t.strictSame(figures(balance), [3, 0, 7])
  t.ok(balance.resetsAt! > balance.periodStart)
  t.strictSame(await logsOf(db, user), [{ type: 'calls', amount: 3, endpoint: 'nightly', metadata: { job: 7 } }])
})

onEach('charges 1 if no amount is given, and writes a log row even for 0', async (t, { quota, db }) => {
  const user = newUser()
  t.equal((await quota.consume(user, 'calls')).used, 1)
  t.equal((await quota.consume(user, 'calls', 0)).used, 1)
  t.match(await logsOf(db, user), [{ amount: 1, endpoint: null, metadata: {} }, { amount: 0 }])
})

onEach('charges up to the last unit, and then rejects with what did not fit', async (t, { quota }) => {
  const user = newUser()
  t.equal((await quota.consume(user, 'calls', 10)).remaining, 0)
  const error = await quota.consume(user, 'calls', 2).catch(error => error)
  t.type(error, errors.FST_QUOTA_EXCEEDED)
  t.match(error, { code: 'FST_QUOTA_EXCEEDED', statusCode: 402 })
  t.match(error.violations, [{ type: 'calls', limit: 10, used: 10, reserved: 0, remaining: 0, required: 2 }])
  t.ok(error.violations[0].retryAfter > 0)
})

onEach('changes nothing when it does not fit', async (t, { quota, db }) => {
  const user = newUser()
  await quota.consume(user, 'calls', 9)
  const before = await rowsOf(db, user)
  await t.rejects(quota.consume(user, 'calls', 2, { idempotencyKey: 'k' }), { code: 'FST_QUOTA_EXCEEDED' })
  t.strictSame(await rowsOf(db, user), before)
  t.strictSame(await tally(quota, user), [9, 0, 1])
})

onEach('counts an unlimited type up to 2^53−1', async (t, { quota }) => {
  const user = newUser()
  t.strictSame(figures(await quota.consume(user, 'free', 2 ** 52)), [2 ** 52, 0, -1])
  t.strictSame(
    figures(await quota.consume(user, 'free', 2 ** 52 - 1)),
    [2 ** 53 - 1, 0, -1],
    'the largest safe integer'
  )
})

onEach('admits exactly the limit when many calls arrive at once', async (t, { quota, db }) => {
  const user = newUser()
  const outcomes = await Promise.allSettled(Array.from({ length: 25 }, () => quota.consume(user, 'calls')))
  t.equal(outcomes.filter(outcome => outcome.status === 'fulfilled').length, 10)
  t.equal((await logsOf(db, user)).length, 10)
})

onEach('keeps as much as it can of metadata that the database would refuse', async (t, { quota, db }) => {
  const user = newUser()
  const deep: Record<string, unknown> = {}
  deep.deep = deep
  await quota.consume(user, 'calls', 1, { metadata: { nul: 'a\u0000b', surrogate: '\ud83d', big: 5n, deep } })
  await quota.consume(user, 'calls', 1, { metadata: { small: 1, large: 'x'.repeat(5000) } })
  const [odd, large] = await logsOf(db, user)
  t.match(odd?.metadata, { nul: 'a\ufffdb', surrogate: '\ufffd', big: '5', deep: { deep: {} } })
  t.strictSame(large?.metadata, { small: 1, truncated: true })
})

onEach('accepts every valid user id', async (t, { quota, db }) => {
  for (const user of ODD_USERS) {
    await quota.consume(user, 'calls', 2, { idempotencyKey: 'k' })
    t.strictSame(await tally(quota, user), [2, 0, 8], user.slice(0, 30))
    t.strictSame(await rowsOf(db, user), {
      quota_users: 1,
      quota_limits: 4,
      quota_idempotency_keys: 1,
      usage_logs: 1
    })
  }
})
