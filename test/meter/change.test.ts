import type { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/pglite'
import t from 'tap'
import { auditOf, BY } from '../fixtures/charges.ts'
import { figures, meter, rowsOf, tally } from '../fixtures/meter.ts'
import { logsOf, metered, newUser, onEmbedded } from '../fixtures/metered.ts'

const { quota, db } = await meter(t)
const UNKNOWN_USER = { code: 'FST_QUOTA_UNKNOWN_USER', statusCode: 404 }

t.test('reset starts one flow again until the end of its current period, and deletes no log row', async t => {
  const user = newUser()
  const before = await quota.consume(user, 'calls', 10)
  await quota.consume(user, 'tokens', 5)
  t.strictSame(await quota.reset(user, 'calls'), { quotasReset: ['calls'] })
  const after = (await quota.all(user)).find(({ type }) => type === 'calls')!
  t.strictSame(figures(after), [0, 0, 10])
  t.ok(after.periodStart > before.periodStart)
  t.strictSame(after.resetsAt, before.resetsAt)
  t.strictSame(await tally(quota, user, 'tokens'), [5, 0, 995])
  t.equal((await logsOf(db, user)).length, 2)
})

t.test('reset without a type starts every flow again, but no level', async t => {
  const user = newUser()
  for (const type of ['calls', 'tokens', 'free', 'storage']) await quota.consume(user, type, 5)
  t.strictSame((await quota.reset(user)).quotasReset.sort(), ['calls', 'free', 'tokens'])
  t.strictSame(
    (await quota.all(user)).map(({ type, used }) => [type, used]),
    [
      ['calls', 0],
      ['free', 0],
      ['storage', 5],
      ['tokens', 0]
    ]
  )
})

t.test('reset refuses a level and an unknown user', async t => {
  const user = newUser()
  await t.rejects(quota.reset(user), UNKNOWN_USER)
  await t.rejects(quota.reset(user, 'calls'), UNKNOWN_USER)
  t.strictSame(await rowsOf(db, user), {}, 'and does not create the user')
  await quota.consume(user, 'storage', 5)
  await t.rejects(quota.reset(user, 'storage'), { code: 'FST_QUOTA_KIND_MISMATCH', statusCode: 409 })
  t.strictSame(await tally(quota, user, 'storage'), [5, 0, 95])
})

t.test('adjust changes the limit, and leaves the usage as it is', async t => {
  const user = newUser()
  await quota.consume(user, 'calls', 6)
  const figuresAt = async (limit: number) => figures(await quota.adjust(user, 'calls', limit))
  t.strictSame(await figuresAt(20), [6, 0, 14])
  t.strictSame(await figuresAt(5), [6, 0, 0], 'below the usage')
  await t.rejects(quota.consume(user, 'calls', 1), { code: 'FST_QUOTA_EXCEEDED' })
  t.strictSame(await figuresAt(0), [6, 0, 0])
  t.strictSame(await figuresAt(-1), [6, 0, -1], 'unlimited')
  t.strictSame(await figuresAt(2 ** 53 - 1), [6, 0, 2 ** 53 - 7])
})

t.test('adjust refuses an unknown user', async t => {
  const user = newUser()
  await t.rejects(quota.adjust(user, 'calls', 20), UNKNOWN_USER)
  t.strictSame(await rowsOf(db, user), {})
})

t.test('adjust refuses a user who is deleted while it runs', async t => {
  const client = (db.orm as unknown as { $client: PGlite }).$client
  const user = newUser()
  const logger = {
    logQuery: (text: string) => {
      if (text.includes('quota_users u CROSS JOIN quota_types'))
        void client.query('DELETE FROM quota_users WHERE id = $1', [user])
    }
  }
  const app = await metered(t, db, () => {}, { ...onEmbedded(db), connection: drizzle(client, { logger }) })
  await quota.consume(user, 'calls')
  await t.rejects(app.quota.adjust(user, 'calls', 20), UNKNOWN_USER)
  t.equal((await rowsOf(db, user)).quota_limits, undefined, 'and does not create the user again')
})

t.test('adjust with createUser creates an unknown user, with the defaults of every other type', async t => {
  const user = newUser()
  t.strictSame(figures(await quota.adjust(user, 'calls', 500, { createUser: true, reason: 'plan: pro' })), [0, 0, 500])
  t.strictSame(await tally(quota, user, 'tokens'), [0, 0, 1000])
  t.match(await auditOf(db, user), [
    { action: 'adjust', before: { limit: 10 }, after: { limit: 500 }, reason: 'plan: pro' }
  ])
  await quota.consume(user, 'calls', 2)
  t.strictSame(
    figures(await quota.adjust(user, 'calls', 50, { createUser: true })),
    [2, 0, 48],
    'an existing user is kept'
  )
  const call = quota.adjust(newUser(), 'calls', 5, { createUser: 'yes' as unknown as boolean })
  await t.rejects(call, { code: 'FST_QUOTA_INVALID_CALL', message: /createUser must be true or false/ })
})

t.test('adjust refuses an invalid limit', async t => {
  const user = newUser()
  await quota.consume(user, 'calls')
  for (const limit of [-2, 1.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY, 'abc', '5', '', null, undefined, 5n])
    await t.rejects(
      quota.adjust(user, 'calls', limit as number),
      { code: 'FST_QUOTA_INVALID_LIMIT', statusCode: 422 },
      String(limit)
    )
  t.strictSame(await tally(quota, user), [1, 0, 9])
  t.strictSame(await auditOf(db, user), [])
})

t.test('writes who changed what, and why, into the audit log', async t => {
  const user = newUser()
  await quota.consume(user, 'calls', 6)
  await quota.adjust(user, 'calls', 20)
  await quota.reset(user, 'calls', BY)
  t.match(await auditOf(db, user), [
    { actor: 'application', action: 'adjust', quota_type: 'calls', before: { limit: 10 }, after: { limit: 20 } },
    {
      actor: 'ops',
      action: 'reset',
      quota_type: 'calls',
      before: { used: 6 },
      after: { used: 0 },
      reason: BY.reason,
      request_id: BY.requestId
    }
  ])
})

t.test('reset and adjust refuse an invalid actor, reason or request id, and change nothing', async t => {
  const user = newUser()
  await quota.consume(user, 'calls', 6)
  for (const field of ['actor', 'reason', 'requestId'])
    for (const value of ['', 'x'.repeat(2049), 'a\u0000b', '\ud83d', 5, null]) {
      const error = { code: 'FST_QUOTA_INVALID_CALL', statusCode: 400, message: new RegExp(`Argument ${field} `) }
      const options = { ...BY, [field]: value } as typeof BY
      await t.rejects(quota.adjust(user, 'calls', 20, options), error)
      await t.rejects(quota.reset(user, 'calls', options), error)
    }
  t.strictSame(await tally(quota, user), [6, 0, 4])
  t.strictSame(await auditOf(db, user), [])
  await quota.adjust(user, 'calls', 20, { actor: 'a', reason: 'x'.repeat(2048) })
})
