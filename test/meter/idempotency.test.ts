import type { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/pglite'
import t from 'tap'
import { figures, meters, rowsOf, tally } from '../fixtures/meter.ts'
import { logsOf, metered, newUser, onEmbedded } from '../fixtures/metered.ts'

const { onEach, quota, db } = await meters(t)
const MISMATCH = { code: 'FST_QUOTA_IDEMPOTENCY_MISMATCH', statusCode: 422 }

onEach('returns the first answer for a repeated key, and charges nothing more', async (t, { quota, db }) => {
  const user = newUser()
  const first = await quota.consume(user, 'calls', 3, { idempotencyKey: 'order-1' })
  await quota.consume(user, 'calls', 5)
  const again = await quota.consume(user, 'calls', 3, { idempotencyKey: 'order-1', metadata: { retry: true } })
  t.strictSame(again, first)
  t.equal(JSON.stringify(again), JSON.stringify(first))
  t.strictSame(await tally(quota, user), [8, 0, 2])
  t.strictSame(
    (await logsOf(db, user)).map(({ amount }) => amount),
    [3, 5]
  )
})

onEach('returns the first answer for a repeated key even when nothing would fit any more', async (t, { quota }) => {
  const user = newUser()
  const first = await quota.consume(user, 'calls', 10, { idempotencyKey: 'all' })
  t.strictSame(await quota.consume(user, 'calls', 10, { idempotencyKey: 'all' }), first)
})

onEach('returns the first answer for a repeated key also where something was reserved', async (t, { quota }) => {
  const user = newUser()
  await quota.reserve(user, [
    { type: 'calls', amount: 2 },
    { type: 'storage', amount: 20 }
  ])
  const call = () => quota.consume(user, 'calls', 3, { idempotencyKey: 'calls' })
  const credit = () => quota.credit(user, 'storage', 10, { idempotencyKey: 'storage' })
  await quota.consume(user, 'storage', 40)
  const first = [await call(), await credit()]
  t.strictSame(first.map(figures), [
    [3, 2, 5],
    [30, 20, 50]
  ])
  t.strictSame([await call(), await credit()], first)
})

onEach('refuses a key that was used for another charge', async (t, { quota, db }) => {
  const user = newUser()
  await quota.consume(user, 'calls', 3, { idempotencyKey: 'k' })
  await t.rejects(quota.consume(user, 'calls', 4, { idempotencyKey: 'k' }), MISMATCH, 'another amount')
  await t.rejects(quota.consume(user, 'tokens', 3, { idempotencyKey: 'k' }), MISMATCH, 'another type')
  await t.rejects(quota.credit(user, 'storage', 3, { idempotencyKey: 'k' }), MISMATCH, 'another call')
  t.strictSame(await tally(quota, user), [3, 0, 7])
  t.equal((await rowsOf(db, user)).usage_logs, 1)
})

onEach('charges once for 20 simultaneous calls with one key', async (t, { quota, db }) => {
  const user = newUser()
  const balances = await Promise.all(
    Array.from({ length: 20 }, () => quota.consume(user, 'calls', 2, { idempotencyKey: 'k' }))
  )
  for (const balance of balances) t.strictSame(balance, balances[0])
  t.strictSame(await tally(quota, user), [2, 0, 8])
  t.equal((await logsOf(db, user)).length, 1)
})

onEach(
  'gives 20 simultaneous calls with one key the same answer, even if the first takes all that is left',
  async (t, { quota, db }) => {
    const user = newUser()
    const balances = await Promise.all(
      Array.from({ length: 20 }, () => quota.consume(user, 'calls', 10, { idempotencyKey: 'k' }))
    )
    for (const balance of balances) t.strictSame(figures(balance), [10, 0, 0])
    t.equal((await logsOf(db, user)).length, 1)
  }
)

onEach(
  'of 20 different simultaneous charges with one key, charges one and refuses the others',
  async (t, { quota, db }) => {
    const user = newUser()
    const outcomes = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) => quota.consume(user, 'tokens', i + 1, { idempotencyKey: 'k' }))
    )
    t.equal(outcomes.filter(outcome => outcome.status === 'fulfilled').length, 1)
    for (const outcome of outcomes) if (outcome.status === 'rejected') t.match(outcome.reason, MISMATCH)
    t.equal((await logsOf(db, user)).length, 1)
  }
)

onEach('keeps the keys of each user apart', async (t, { quota }) => {
  const [alice, bob] = [newUser(), newUser()]
  await quota.consume(alice, 'calls', 3, { idempotencyKey: 'k' })
  t.strictSame(figures(await quota.consume(bob, 'calls', 5, { idempotencyKey: 'k' })), [5, 0, 5])
})

onEach('remembers no denial: the same key is charged once there is room', async (t, { quota }) => {
  const user = newUser()
  await quota.consume(user, 'calls', 10)
  await t.rejects(quota.consume(user, 'calls', 1, { idempotencyKey: 'k' }), { code: 'FST_QUOTA_EXCEEDED' })
  await quota.adjust(user, 'calls', 11)
  t.equal((await quota.consume(user, 'calls', 1, { idempotencyKey: 'k' })).used, 11)
})

onEach('credits once for one key, even if the credit was cut off at 0', async (t, { quota }) => {
  const user = newUser()
  await quota.consume(user, 'storage', 50)
  const first = await quota.credit(user, 'storage', 60, { idempotencyKey: 'delete' })
  await quota.consume(user, 'storage', 20)
  const again = await Promise.all(
    Array.from({ length: 5 }, () => quota.credit(user, 'storage', 60, { idempotencyKey: 'delete' }))
  )
  for (const balance of again) t.strictSame(balance, first)
  t.strictSame(await tally(quota, user, 'storage'), [20, 0, 80])
  await t.rejects(quota.credit(user, 'storage', 61, { idempotencyKey: 'delete' }), MISMATCH)
  await t.rejects(
    quota.consume(user, 'storage', 60, { idempotencyKey: 'delete' }),
    MISMATCH,
    'a charge is not a credit'
  )
})

onEach(
  'accepts keys of 1 to 255 characters, including special ones, and refuses invalid keys',
  async (t, { quota }) => {
    const user = newUser()
    for (const key of ['1', ' ', "'; --", '%', 'ключ 🗝', 'k'.repeat(255)]) {
      const first = await quota.consume(user, 'free', 1, { idempotencyKey: key })
      t.strictSame(await quota.consume(user, 'free', 1, { idempotencyKey: key }), first, key.slice(0, 20))
    }
    for (const key of ['', 'k'.repeat(256), 'a\u0000b', '\ud83d', 5, null, {}]) {
      await t.rejects(
        quota.consume(user, 'free', 1, { idempotencyKey: key as string }),
        { code: 'FST_QUOTA_INVALID_CALL' },
        JSON.stringify(key)?.slice(0, 20)
      )
    }
    t.strictSame(await tally(quota, user, 'free'), [6, 0, -1])
  }
)

t.test('charges with a key that was taken just now, but is gone again before its answer is read', async t => {
  const client = (db.orm as unknown as { $client: PGlite }).$client
  const user = newUser()
  const between = [
    [
      'INTO quota_idempotency_keys',
      "INSERT INTO quota_idempotency_keys SELECT $1, 'k', id, 2, '{}' FROM quota_types WHERE type_key = 'calls'"
    ],
    ['FROM quota_idempotency_keys', 'DELETE FROM quota_idempotency_keys WHERE user_id = $1']
  ]
  const logger = {
    logQuery: (text: string) => {
      if (between[0] !== undefined && text.includes(between[0][0]!)) void client.query(between.shift()![1]!, [user])
    }
  }
  const app = await metered(t, db, () => {}, { ...onEmbedded(db), connection: drizzle(client, { logger }) })
  await app.quota.reserve(user, 'tokens')
  t.strictSame(figures(await app.quota.consume(user, 'calls', 2, { idempotencyKey: 'k' })), [2, 0, 8])
  t.strictSame(between, [])
  t.strictSame(figures(await app.quota.consume(user, 'calls', 2, { idempotencyKey: 'k' })), [2, 0, 8])
  t.strictSame(await tally(quota, user), [2, 0, 8])
})
