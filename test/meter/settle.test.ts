import { setTimeout as sleep } from 'node:timers/promises'
import type { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/pglite'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Reservation } from '../../src/index.ts'
import { type Database, ms } from '../../src/store/database.ts'
import { deleteUser } from '../../src/store/operator/delete-user.ts'
import { figures, meters, NO_AMOUNTS, rowsOf, tally } from '../fixtures/meter.ts'
import { ask, logsOf, metered, newUser, onEmbedded } from '../fixtures/metered.ts'

const { onEach, quota, db } = await meters(t, { constructor: { limit: 5 } })
const SETTLED = { code: 'FST_QUOTA_SETTLED', statusCode: 409 }

onEach('release gives everything back, and writes no log row', async (t, { quota, db }) => {
  const user = newUser()
  const reservation = await quota.reserve(user, ['calls', 'tokens'])
  await reservation.release()
  t.strictSame(await tally(quota, user), [0, 0, 10])
  t.strictSame(await rowsOf(db, user), { quota_users: 1, quota_limits: 5 })
})

onEach(
  'commit rejects with FST_QUOTA_UNKNOWN_USER after its user was deleted, and release does not reject',
  async (t, { quota, db }) => {
    const user = newUser()
    const reservation = await quota.reserve(user, 'calls')
    await deleteUser(db, user, { actor: 'operator', reason: null, requestId: null })
    for (let i = 0; i < 2; i++)
      await t.rejects(reservation.commit(), { code: 'FST_QUOTA_UNKNOWN_USER', statusCode: 404 })
    await reservation.release()
    t.strictSame(await rowsOf(db, user), {})
  }
)

onEach('commit charges once, however often it is called, even simultaneously', async (t, { quota, db }) => {
  const user = newUser()
  const reservation = await quota.reserve(user, { type: 'calls', amount: 4 })
  const first = await reservation.commit({ amounts: { calls: 3 } })
  await quota.consume(user, 'calls', 1)
  const { charged } = quota.counts()
  t.strictSame(await reservation.commit(), first, 'the first answer')
  t.strictSame(await reservation.commit({ amounts: { calls: 9 } }), first)
  t.equal(quota.counts().charged, charged)
  t.strictSame(await tally(quota, user), [4, 0, 6])

  const other = await quota.reserve(user, { type: 'calls', amount: 4 })
  await Promise.all(Array.from({ length: 5 }, () => other.commit()))
  t.equal(quota.counts().charged, charged + 1)
  t.strictSame(await tally(quota, user), [8, 0, 2])
  t.equal((await logsOf(db, user)).length, 3)
})

onEach('release gives back once, however often it is called, even simultaneously', async (t, { quota }) => {
  const user = newUser()
  const reservation = await quota.reserve(user, { type: 'calls', amount: 4 })
  await quota.consume(user, 'calls', 5)
  const { released } = quota.counts()
  await Promise.all([reservation.release(), reservation.release()])
  await reservation.release()
  t.equal(quota.counts().released, released + 1)
  t.strictSame(await tally(quota, user), [5, 0, 5])
})

onEach('refuses to charge what was given back, and to give back what was charged', async (t, { quota }) => {
  const user = newUser()
  const released = await quota.reserve(user, 'calls')
  await released.release()
  await t.rejects(released.commit(), SETTLED)
  const committed = await quota.reserve(user, 'calls')
  await committed.commit()
  await t.rejects(committed.release(), SETTLED)
  t.strictSame(await tally(quota, user), [1, 0, 9])
})

onEach('commit and release also work when detached from the reservation', async (t, { quota }) => {
  const user = newUser()
  const { commit } = await quota.reserve(user, { type: 'calls', amount: 3 })
  t.strictSame(figures((await commit()).calls!), [3, 0, 7])
  const job = await quota.reserve(user, 'calls')
  await Promise.resolve().finally(job.release)
  t.strictSame(await tally(quota, user), [3, 0, 7])
})

onEach('of a release and a commit at the same time, the first one called wins', async (t, { quota }) => {
  const user = newUser()
  const reservation = await quota.reserve(user, 'calls')
  const outcomes = await Promise.allSettled([reservation.release(), reservation.commit()])
  t.match(outcomes, [{ status: 'fulfilled' }, { status: 'rejected', reason: SETTLED }])
  t.strictSame(await tally(quota, user), [0, 0, 10])
})

onEach(
  'commit refuses invalid amounts and types that are not held, and the reservation stays open',
  async (t, { quota }) => {
    const user = newUser()
    const reservation = await quota.reserve(user, { type: 'calls', amount: 2 })
    for (const amount of NO_AMOUNTS)
      await t.rejects(reservation.commit({ amounts: { calls: amount as number } }), {
        code: 'FST_QUOTA_INVALID_AMOUNT',
        statusCode: 422,
        message: /^amounts\.calls must be/
      })
    for (const amounts of [[], [1], null, 'text'])
      await t.rejects(reservation.commit({ amounts: amounts as never }), {
        code: 'FST_QUOTA_INVALID_CALL',
        message: /^Argument amounts must be an object/
      })
    await t.rejects(reservation.commit({ amounts: { tokens: 1 } }), { code: 'FST_QUOTA_NOT_RESERVED' })
    t.strictSame(await tally(quota, user), [0, 2, 8])
    await reservation.commit()
    t.strictSame(await tally(quota, user), [2, 0, 8])
  }
)

onEach(
  'commit refuses an amount that takes its counter past 2^53−1, and the reservation stays open',
  async (t, { quota }) => {
    const user = newUser()
    const most = 2 ** 53 - 1
    const refused = async (reservation: Reservation, calls: number, room: RegExp) =>
      await t.rejects(reservation.commit({ amounts: { tokens: 2, calls } }), {
        code: 'FST_QUOTA_INVALID_AMOUNT',
        message: room
      })
    await quota.consume(user, 'calls', 3)
    const reservation = await quota.reserve(user, ['calls', 'tokens'])
    await refused(
      reservation,
      most - 2,
      /amounts\.calls .* is 9007199254740989, of which the counter has room for 9007199254740988\./
    )
    await quota.consume(user, 'calls', 2)
    await refused(reservation, most - 3, /amounts\.calls .* is 9007199254740988, more than the counter has room for\./)
    t.strictSame(
      [await tally(quota, user), await tally(quota, user, 'tokens')],
      [
        [5, 1, 4],
        [0, 1, 999]
      ]
    )
    const { calls } = await reservation.commit({ amounts: { calls: most - 5 } })
    t.strictSame(figures(calls!), [most, 0, 0])
  }
)

onEach('commit charges the period in which the amount was reserved, even after a reset', async (t, { quota, db }) => {
  const user = newUser()
  const reservation = await quota.reserve(user, { type: 'calls', amount: 4 })
  await quota.reset(user, 'calls')
  await reservation.commit()
  t.strictSame(await tally(quota, user), [0, 0, 10])
  t.match(await logsOf(db, user), [{ amount: 4 }])
})

onEach(
  "commit adds its metadata to the reservation's, and charges even if its metadata cannot be used",
  async (t, { quota, db }) => {
    const broken = Object.defineProperty({}, 'plan', {
      enumerable: true,
      get: () => {
        throw new Error('gone')
      }
    })
    for (const [metadata, kept] of [
      [{ step: 2 }, { job: 'a', step: 2 }],
      [{ toJSON: () => ({ plan: 'gold' }) }, { job: 'a', plan: 'gold' }],
      ['text', { job: 'a', truncated: true }],
      [{ note: 'x'.repeat(4080) }, { job: 'a', truncated: true }],
      [broken, { job: 'a', truncated: true }]
    ] as const) {
      const user = newUser()
      const reservation = await quota.reserve(user, 'calls', { metadata: { job: 'a' } })
      await reservation.commit({ metadata: metadata as Record<string, unknown> })
      t.strictSame((await logsOf(db, user))[0]!.metadata, kept)
    }
    const reservation = await quota.reserve(newUser(), 'calls')
    for (const final of [null, 5, 'text'])
      await t.rejects(reservation.commit(final as unknown as object), { code: 'FST_QUOTA_INVALID_CALL' })
    await reservation.release()
  }
)

onEach('reserve holds for ttlMs if given, and refuses an invalid ttlMs', async (t, { quota, db }) => {
  const user = newUser()
  const before = Date.now()
  const { id, expiresAt } = await quota.reserve(user, 'calls', { ttlMs: 3_600_000 })
  t.ok(expiresAt.getTime() >= before + 3_000_000)
  const [row] = await db.query<{ at: number }>(
    `SELECT ${ms('expires_at')} AS at FROM quota_reservations WHERE user_id = $1 AND id = $2::text::uuid`,
    [user, id]
  )
  t.strictSame(expiresAt, new Date(Number(row!.at)), "by the database's clock")
  for (const ttlMs of [99, 0, -1, 1000.5, Number.NaN, 2 ** 31, '1000', null])
    await t.rejects(
      quota.reserve(user, 'calls', { ttlMs: ttlMs as number }),
      { code: 'FST_QUOTA_INVALID_CALL' },
      String(ttlMs)
    )
})

onEach('an expired reservation is given back, and a late commit is still charged', async (t, { quota, db }) => {
  const user = newUser()
  const late = await quota.reserve(user, { type: 'calls', amount: 6 }, { ttlMs: 100 })
  await expired(db, user)
  t.strictSame(await tally(quota, user), [0, 0, 10], 'without waiting for a sweep')
  t.strictSame(figures(await quota.consume(user, 'calls', 10)), [10, 0, 0])
  const { calls } = await late.commit()
  t.strictSame(figures(calls!), [16, 0, 0])
  t.strictSame((await logsOf(db, user)).map(({ amount }) => amount).sort(), [10, 6])
})

t.test(
  'holds for two thirds of reservationTtlMs, and leaves the last third to the sweep of another process',
  async t => {
    const user = newUser()
    await quota.reserve(user, 'calls')
    const { quota: longer } = await metered(t, db, () => {}, { reservationTtlMs: 600_000 })
    await longer.reserve(user, 'calls')
    const held = await db.query(
      `SELECT ${ms('expires_at')} - ${ms('created_at')} AS ms FROM quota_reservations WHERE user_id = $1 ORDER BY 1`,
      [user]
    )
    t.match(held, [{ ms: 40_000 }, { ms: 400_000 }])
  }
)

t.test('a reservation is renewed while the process lives, unless ttlMs was given', async t => {
  const { quota } = await metered(t, db, () => {}, { reservationTtlMs: 600 })
  const user = newUser()
  await quota.reserve(user, { type: 'calls', amount: 4 })
  await quota.reserve(user, { type: 'calls', amount: 2 }, { ttlMs: 400 })
  const held = async () =>
    (await db.query<{ amount: number }>('SELECT amount FROM quota_reservations WHERE user_id = $1', [user])).map(row =>
      Number(row.amount)
    )
  const begun = performance.now()
  while ((await held()).includes(2)) await sleep(20)
  t.strictSame(await held(), [4])
  await sleep(begun + 1_500 - performance.now())
  t.strictSame(await held(), [4], 'also after two times reservationTtlMs')
})

t.test('what was charged, was given back or belonged to a deleted user is not renewed any more', async t => {
  const renewals: string[] = []
  const logger = {
    logQuery: (text: string, [ids]: unknown[]) => {
      if (text.includes('SET expires_at')) renewals.push(ids as string)
    }
  }
  const connection = drizzle((db.orm as unknown as { $client: PGlite }).$client, { logger })
  const addRoutes = (app: FastifyInstance) => void app.get('/', { config: { quota: 'calls' } }, async () => 'x')
  const app = await metered(t, db, addRoutes, { ...onEmbedded(db), connection, reservationTtlMs: 600 })
  const [user, deleted] = [newUser(), newUser()]
  t.equal((await ask(app, user, '/')).statusCode, 200)
  await (await app.quota.reserve(user, 'calls')).commit()
  await (await app.quota.reserve(user, 'calls')).release()
  const orphan = await app.quota.reserve(deleted, 'calls')
  await deleteUser(db, deleted, { actor: 'operator', reason: null, requestId: null })
  await t.rejects(orphan.commit(), { code: 'FST_QUOTA_UNKNOWN_USER' })
  renewals.length = 0
  const { id } = await app.quota.reserve(user, 'calls')
  // By its second renewal, whatever was held before it would be due too.
  while (renewals.filter(ids => ids.includes(id)).length < 2) await sleep(20)
  for (const ids of renewals) t.strictSame(JSON.parse(ids), [{ user_id: user, id }])
})

onEach('release gives nothing back twice if the reservation has expired', async (t, { quota, db }) => {
  const user = newUser()
  const late = await quota.reserve(user, { type: 'calls', amount: 6 }, { ttlMs: 100 })
  await expired(db, user)
  await quota.consume(user, 'calls', 10)
  await late.release()
  t.strictSame(await tally(quota, user), [10, 0, 0])
})

onEach('charges a type whose key is also a property of every object', async (t, { quota }) => {
  const user = newUser()
  const reservation = await quota.reserve(user, 'constructor')
  t.strictSame(figures((await reservation.commit()).constructor as never), [1, 0, 4])
})

/** Waits until the database's clock has passed every reservation of the user. */
async function expired(db: Database, user: string): Promise<void> {
  const open = () =>
    db.query('SELECT 1 FROM quota_reservations WHERE user_id = $1 AND expires_at > clock_timestamp()', [user])
  while ((await open()).length > 0) await new Promise(resolve => setTimeout(resolve, 10))
}
