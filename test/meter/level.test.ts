import t from 'tap'
import { figures, meter, rowsOf, tally } from '../fixtures/meter.ts'
import { logsOf, newUser } from '../fixtures/metered.ts'

const { quota, db } = await meter(t, { gone: { kind: 'level', limit: 100 } })
const stored = (user: string) => tally(quota, user, 'storage')
const amounts = async (user: string) => (await logsOf(db, user)).map(({ amount }) => amount)

t.test('credit and setUsage say that the row of a type is gone', async t => {
  const user = newUser()
  t.strictSame(await tally(quota, user, 'gone'), [0, 0, 100])
  await db.query("DELETE FROM quota_types WHERE type_key = 'gone'")
  for (const call of [quota.credit, quota.setUsage])
    await t.rejects(call(user, 'gone', 7), {
      code: 'FST_QUOTA_UNKNOWN_TYPE',
      message: /its row is gone from quota_types/
    })
})

t.test('credit lowers a level, and logs what it took off as a negative amount', async t => {
  const user = newUser()
  await quota.consume(user, 'storage', 60)
  const options = { endpoint: 'cleanup', metadata: { file: 1 } }
  t.strictSame(figures(await quota.credit(user, 'storage', 20, options)), [40, 0, 60])
  t.match(await logsOf(db, user), [{ amount: 60 }, { amount: -20, ...options }])
})

t.test('credit never goes below 0, and logs only what it took off', async t => {
  const user = newUser()
  await quota.consume(user, 'storage', 5)
  t.strictSame(figures(await quota.credit(user, 'storage', 2 ** 53 - 1)), [0, 0, 100])
  t.strictSame(await amounts(user), [5, -5])
  t.strictSame(figures(await quota.credit(user, 'storage', 1)), [0, 0, 100])
})

t.test('credit does not touch what is reserved', async t => {
  const user = newUser()
  await quota.consume(user, 'storage', 10)
  const upload = await quota.reserve(user, { type: 'storage', amount: 30 })
  t.strictSame(figures(await quota.credit(user, 'storage', 50)), [0, 30, 70])
  await upload.commit()
  t.strictSame(await stored(user), [30, 0, 70])
})

t.test('simultaneous credits each take off their own amount', async t => {
  const user = newUser()
  await quota.consume(user, 'storage', 100)
  await Promise.all(Array.from({ length: 10 }, () => quota.credit(user, 'storage', 10)))
  t.strictSame(await stored(user), [0, 0, 100])
})

t.test('setUsage sets a level to what was measured, and the log adds up to it', async t => {
  const user = newUser()
  await quota.consume(user, 'storage', 60)
  t.strictSame(figures(await quota.setUsage(user, 'storage', 25)), [25, 0, 75])
  t.strictSame(figures(await quota.setUsage(user, 'storage', 70, { endpoint: 'scan' })), [70, 0, 30])
  t.strictSame(figures(await quota.setUsage(user, 'storage', 0)), [0, 0, 100])
  t.strictSame(await amounts(user), [60, -35, 45, -70])
})

t.test('setUsage may go past the limit, and what is reserved comes on top', async t => {
  const user = newUser()
  await quota.reserve(user, { type: 'storage', amount: 10 })
  t.strictSame(figures(await quota.setUsage(user, 'storage', 150)), [150, 10, 0])
  await t.rejects(quota.consume(user, 'storage', 1), { code: 'FST_QUOTA_EXCEEDED' })
  t.strictSame(figures(await quota.setUsage(user, 'storage', 150)), [150, 10, 0], 'the same again changes nothing')
})

t.test('setUsage accepts up to 2^53−1, including what is reserved, and refuses more', async t => {
  const user = newUser()
  const upload = await quota.reserve(user, { type: 'storage', amount: 5 })
  const most = 2 ** 53 - 1
  await t.rejects(quota.setUsage(user, 'storage', most), {
    code: 'FST_QUOTA_INVALID_AMOUNT',
    statusCode: 422,
    message: `The amount must be a whole number from 0 to 2^53−1, but is ${most}, more than the counter has room for`
  })
  t.strictSame(await stored(user), [0, 5, 95])
  t.strictSame(figures(await quota.setUsage(user, 'storage', most - 5)), [most - 5, 5, 0])
  await upload.release()
  t.strictSame(figures(await quota.setUsage(user, 'storage', most)), [most, 0, 0])
  t.strictSame(figures(await quota.credit(user, 'storage', most)), [0, 0, 100])
})

t.test('credit and setUsage give an unknown user the defaults of every type', async t => {
  for (const call of [quota.credit, quota.setUsage]) {
    const user = newUser()
    await call(user, 'storage', 7)
    t.strictSame(await rowsOf(db, user), { quota_users: 1, quota_limits: 4, usage_logs: 1 })
  }
})

t.test('credit and setUsage refuse a flow', async t => {
  const user = newUser()
  await quota.consume(user, 'calls', 5)
  const mismatch = { code: 'FST_QUOTA_KIND_MISMATCH', statusCode: 409 }
  await t.rejects(quota.credit(user, 'calls', 1), mismatch)
  await t.rejects(quota.setUsage(user, 'calls', 1), mismatch)
  t.strictSame(await tally(quota, user), [5, 0, 5])
  t.strictSame(await amounts(user), [5])
})

t.test('setUsage refuses an idempotency key, which it would ignore', async t => {
  const user = newUser()
  await t.rejects(quota.setUsage(user, 'storage', 5, { idempotencyKey: 'scan-1' } as object), {
    code: 'FST_QUOTA_INVALID_CALL',
    message: 'Argument options.idempotencyKey is not known; known here: endpoint, metadata.'
  })
  t.strictSame(await rowsOf(db, user), {})
})
