import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import type { QuotaEvent } from '../../../src/quota/events.ts'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { ensureUser } from '../../../src/store/charge/ensure-user.ts'
import { DenialTally } from '../../../src/upkeep/denial-tally.ts'
import { both } from '../../fixtures/both.ts'
import { metered } from '../../fixtures/metered.ts'

const onBoth = await both(t)

const denied = (userId: string, at: string, ...types: string[]): QuotaEvent => ({
  name: 'denied',
  userId,
  endpoint: '/a',
  charges: types.map(type => ({ type, amount: 1, remaining: 0, limit: 5 })),
  statusCode: 402,
  at: new Date(at)
})

const ROWS = `
SELECT d.user_id, t.type_key, to_char(d.hour AT TIME ZONE 'UTC', 'DD HH24:MI') AS hour, d.denials::int AS denials
  FROM quota_denials d JOIN quota_types t ON t.id = d.quota_type_id ORDER BY 1, 2, 3`

onBoth('a million denials of one user and type in an hour are one row', async (t, db) => {
  await declareTypes(db, { calls: { limit: 5 }, tokens: { limit: 5 } })
  await ensureUser(db, 'alice')
  await ensureUser(db, 'bob')
  const tally = new DenialTally(db)
  for (let i = 0; i < 1_000_000; i++) tally.hear(denied('alice', '2026-03-10T12:59:59.999Z', 'calls'))
  tally.hear(denied('alice', '2026-03-10T13:00:00.000Z', 'calls', 'tokens'))
  tally.hear(denied('bob', '2026-03-10T12:00:00.000Z', 'calls'))
  tally.hear(denied('deleted', '2026-03-10T12:00:00.000Z', 'calls'))
  await tally.flush()
  await tally.flush()
  t.match(await db.query(ROWS), [
    { user_id: 'alice', type_key: 'calls', hour: '10 12:00', denials: 1_000_000 },
    { user_id: 'alice', type_key: 'calls', hour: '10 13:00', denials: 1 },
    { user_id: 'alice', type_key: 'tokens', hour: '10 13:00', denials: 1 },
    { user_id: 'bob', type_key: 'calls', hour: '10 12:00', denials: 1 }
  ])
})

onBoth('all denials of each user are counted where tables are distributed by user', async (t, db) => {
  await declareTypes(db, { calls: { limit: 5 }, tokens: { limit: 5 } })
  for (const user of ['alice', 'bob']) await ensureUser(db, user)
  const tally = new DenialTally(db, { distributed: true })
  for (const user of ['alice', 'bob', 'alice']) tally.hear(denied(user, '2026-03-10T12:00:00Z', 'calls', 'tokens'))
  await tally.flush()
  t.match(await db.query(ROWS), [
    { user_id: 'alice', type_key: 'calls', denials: 2 },
    { user_id: 'alice', type_key: 'tokens', denials: 2 },
    { user_id: 'bob', type_key: 'calls', denials: 1 },
    { user_id: 'bob', type_key: 'tokens', denials: 1 }
  ])
})

onBoth('processes that count denials of the same users at once lose none', async (t, db) => {
  await declareTypes(db, { calls: { limit: 5 } })
  const users = Array.from({ length: 30 }, (_, i) => `user ${i}`)
  for (const user of users) await ensureUser(db, user)
  const tallies = Array.from({ length: 4 }, () => new DenialTally(db))
  for (let round = 0; round < 5; round++) {
    for (const [i, tally] of tallies.entries())
      for (const user of i % 2 === 0 ? users : [...users].reverse())
        tally.hear(denied(user, '2026-03-10T12:00:00Z', 'calls'))
    await Promise.all(tallies.map(tally => tally.flush()))
  }
  t.match(await db.query('SELECT count(*)::int AS n, sum(denials)::int AS denials FROM quota_denials'), [
    { n: 30, denials: 600 }
  ])
})

onBoth('counts that cannot be written are kept for the next flush', async (t, db) => {
  await declareTypes(db, { calls: { limit: 5 } })
  await ensureUser(db, 'alice')
  let isDown = true
  const failing = {
    ...db,
    query: (async (...call: Parameters<typeof db.query>) => {
      // Another denial, while these are being written.
      tally.hear(denied('alice', '2026-03-10T12:00:00Z', 'calls'))
      if (isDown) throw new Error('down')
      return db.query(...call)
    }) as typeof db.query
  }
  const tally = new DenialTally(failing)
  for (let i = 0; i < 3; i++) tally.hear(denied('alice', '2026-03-10T12:00:00Z', 'calls'))
  await t.rejects(tally.flush())
  tally.hear(denied('alice', '2026-03-10T12:00:00Z', 'calls'))
  isDown = false
  await tally.flush()
  t.match(await db.query(ROWS), [{ denials: 5 }])
})

onBoth('a flush during another one waits until the denials before it are written', async (t, db) => {
  await declareTypes(db, { calls: { limit: 5 } })
  await ensureUser(db, 'alice')
  let goOn = () => {}
  const isHeldBack = new Promise<void>(resolve => {
    goOn = resolve
  })
  const slow = {
    ...db,
    query: (async (...call: Parameters<typeof db.query>) => {
      await isHeldBack
      return db.query(...call)
    }) as typeof db.query
  }
  const tally = new DenialTally(slow)
  tally.hear(denied('alice', '2026-03-10T12:00:00Z', 'calls'))
  const first = tally.flush()
  let isOver = false
  const second = tally.flush().then(() => {
    isOver = true
  })
  for (let i = 0; i < 10; i++) await turn()
  t.notOk(isOver)
  goOn()
  await Promise.all([first, second])
  t.match(await db.query(ROWS), [{ denials: 1 }])
})

onBoth('counts that were written before a flush failed are not written again', async (t, db) => {
  await declareTypes(db, { calls: { limit: 5 } })
  await ensureUser(db, 'alice')
  let calls = 0
  const failing = {
    ...db,
    query: (async (...call: Parameters<typeof db.query>) => {
      if (++calls === 2) throw new Error('down')
      return db.query(...call)
    }) as typeof db.query
  }
  const tally = new DenialTally(failing)
  tally.hear(denied('alice', '2026-03-10T12:00:00Z', 'calls'))
  for (let i = 0; i < 1_000; i++) tally.hear(denied(`nobody ${i}`, '2026-03-10T12:00:00Z', 'calls'))
  await t.rejects(tally.flush(), { message: 'down' })
  await tally.flush()
  t.equal(calls, 3)
  t.match(await db.query(ROWS), [{ user_id: 'alice', denials: 1 }])
})

onBoth(
  'every denial by a route or a call is counted, and the last ones are written when the application closes',
  async (t, db, connection) => {
    const app = await metered(
      t,
      db,
      app => {
        app.get('/a', { config: { quota: ['calls', { type: 'tokens', amount: 7 }] } }, async () => 'a')
      },
      { connection, quotas: { calls: { limit: 1 }, tokens: { limit: 5 }, roomy: { limit: 50 } } }
    )
    const ask = () => app.inject({ url: '/a', headers: { 'x-user': 'alice' } })
    for (let i = 0; i < 3; i++) t.equal((await ask()).statusCode, 402)
    await t.rejects(app.quota.consume('alice', 'tokens', 6), { code: 'FST_QUOTA_EXCEEDED' })
    await t.rejects(app.quota.reserve('alice', ['roomy', { type: 'tokens', amount: 6 }]), {
      code: 'FST_QUOTA_EXCEEDED'
    })
    await app.quota.check('alice', 'tokens', 6)
    await app.quota.consume('alice', 'tokens', 5, { idempotencyKey: 'k' })
    await app.quota.consume('alice', 'tokens', 5, { idempotencyKey: 'k' })
    t.equal(app.quota.counts().denied, 5)
    await app.close()
    const rows = await db.query<{ type_key: string; denials: number }>(ROWS)
    const counted = new Map<string, number>()
    for (const { type_key, denials } of rows) counted.set(type_key, (counted.get(type_key) ?? 0) + denials)
    t.strictSame([...counted], [['tokens', 5]], 'only the type that denied')
  }
)
