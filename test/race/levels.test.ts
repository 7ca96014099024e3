// Levels that are credited and set, as `app.quota.credit` and `setUsage` do: however many share a statement, each is exact and by itself.
import postgres from 'postgres'
import t, { type Test } from 'tap'
import type { Balance } from '../../src/quota/balance.ts'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { chargeId } from '../../src/store/charge/charge-id.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { recallCharge } from '../../src/store/charge/recall-charge.ts'
import type { LevelMove } from '../../src/store/charge/set-level.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { type Database, stateOf } from '../../src/store/database.ts'
import { Reservations } from '../../src/store/group/reservations.ts'
import { deleteUser } from '../../src/store/operator/delete-user.ts'
import { BY, costing, hold, logOf, standing, tryHold, wanted } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { deadlocks, untilSleeping, untilWaiting } from '../fixtures/lock-waits.ts'
import { PATIENCE_MS, scansOf, usersOf, watched } from '../fixtures/reserving.ts'

const pg = await server(t)
const MOST = 2 ** 53 - 1

async function begin(t: Test, limit = 1_000) {
  const url = await pg.migrated()
  const open = async () => {
    const db = await connect({ url }, { storeTimeoutMs: PATIENCE_MS })
    t.teardown(() => db.close())
    return db
  }
  const db = await open()
  await declareTypes(db, { bytes: { kind: 'level', limit }, pages: { kind: 'level', limit } })
  const types = await wanted(db, { bytes: 1, pages: 1 })
  return { url, db, open, moving: movingOn(new Reservations(db, PATIENCE_MS)), movingOn }

  /** How levels are moved through a store: `credit` and `set`. */
  function movingOn(store: Reservations) {
    const by =
      (move: LevelMove['move']) =>
      (userId: string, amount: number, { key, type = 'bytes' }: { key?: string; type?: string } = {}) => {
        const { typeId } = types.find(one => one.type === type)!
        const order = {
          userId,
          typeId,
          type,
          id: chargeId(),
          amount,
          move,
          endpoint: '/job',
          metadata: { for: userId }
        }
        return store.moveLevel({ ...order, idempotencyKey: key ?? null })
      }
    return { credit: by('credit'), set: by('set') }
  }
}

const figuresOf = (balance: Balance | undefined) => balance && [balance.used, balance.reserved]
const amountsOf = async (db: Database, userId: string) => (await logOf(db, userId)).map(([amount]) => amount)

t.test('many share a statement, and each is told the level after its own turn', async t => {
  const begun = await begin(t)
  const users = usersOf(30)
  await Promise.all(users.map(user => begun.moving.set(user, 100)))
  await hold(begun.db, 'user-3', { bytes: 20 })
  const { watched: seenThrough, sent } = watched(begun.db)
  const { credit, set } = begun.movingOn(new Reservations(seenThrough, PATIENCE_MS))
  const all = await Promise.all([
    ...users.map(user => credit(user, 30)),
    ...users.map(user => set(user, 250)),
    ...users.map(user => credit(user, 300)),
    ...users.map(user => set(user, 40, { type: 'pages' }))
  ])
  t.ok(sent.length <= 3, `${sent.length} statements`)
  t.ok(sent.every(({ on }) => on === 'charging'))
  for (const i of [0, 3, 29]) {
    const held = i === 3 ? 20 : 0
    t.strictSame(
      [0, 30, 60].map(from => figuresOf(all[from + i])),
      [
        [70, held],
        [250, held],
        [0, held]
      ]
    )
    t.strictSame(figuresOf(all[90 + i]), [40, 0])
  }
  t.match(all[0], { type: 'bytes', limit: 1_000, remaining: 930, resetsAt: null })
  t.strictSame(await standing(begun.db, 'user-3', 'bytes'), [0, 20, 980])
  t.strictSame((await amountsOf(begun.db, 'user-3')).toSorted(), [100, -30, 180, -250, 40].toSorted())
  const [row] = await begun.db.query(
    'SELECT endpoint, metadata::text AS metadata FROM usage_logs WHERE amount = -250 LIMIT 1'
  )
  t.match(row, { endpoint: '/job', metadata: /^{"for": "user-\d+"}$/ })
  t.strictSame(await violations(begun.db), [])
})

t.test('whatever is asked of a level in one statement, it comes out as one after the other', async t => {
  const { db, moving } = await begin(t)
  for (let round = 0; round < 20; round++) {
    const users = usersOf(4).map(user => `${user} of ${round}`)
    await Promise.all(users.map(user => moving.set(user, 50)))
    await Promise.all(users.map(user => hold(db, user, { bytes: 7 })))
    const asked = Array.from({ length: 40 }, () => ({
      user: users[Math.floor(Math.random() * 4)]!,
      isSet: Math.random() < 0.3,
      amount: Math.floor(Math.random() * 60)
    }))
    const told = await Promise.all(
      asked.map(({ user, isSet, amount }) => (isSet ? moving.set : moving.credit)(user, amount))
    )
    const level = new Map(users.map(user => [user, 50]))
    for (const [i, { user, isSet, amount }] of asked.entries()) {
      level.set(user, isSet ? amount : Math.max(level.get(user)! - amount, 0))
      t.strictSame(figuresOf(told[i]), [level.get(user), 7], JSON.stringify(asked))
    }
  }
  t.strictSame(await violations(db), [])
})

t.test('thousands at once, also of users who were never seen, share statements', async t => {
  const begun = await begin(t)
  const { watched: seenThrough, sent } = watched(begun.db)
  const { credit, set } = begun.movingOn(new Reservations(seenThrough, PATIENCE_MS))
  const users = usersOf(2_000)
  const all = await Promise.all(users.map((user, i) => set(user, i % 1_000)))
  t.ok(all.every((one, i) => one?.used === i % 1_000))
  t.ok(sent.length < 250, `${sent.length} statements`)
  sent.length = 0
  t.ok((await Promise.all(users.map(() => credit('user-7', 1)))).every(one => one !== undefined))
  t.ok(sent.length < 60, `${sent.length} statements`)
  t.strictSame(await violations(begun.db), [])
})

t.test('a level that would be too much with what is held is refused, and those beside it are set', async t => {
  const { db, moving } = await begin(t)
  await hold(db, 'alice', { bytes: 5 })
  await moving.set('bob', 1)
  const all = await Promise.allSettled([
    moving.set('alice', MOST),
    moving.set('alice', MOST - 5),
    moving.credit('alice', 1),
    moving.set('bob', MOST)
  ])
  t.match(all[0], { status: 'rejected', reason: { code: 'FST_QUOTA_INVALID_AMOUNT', statusCode: 422 } })
  t.match(
    all.slice(1).map(one => one.status === 'fulfilled' && figuresOf(one.value)),
    [
      [MOST - 5, 5],
      [MOST - 6, 5],
      [MOST, 0]
    ]
  )
  t.strictSame(await violations(db, { overLimit: true }), [])
})

t.test('a user whose counter somebody has locked holds up nobody else', async t => {
  const { db, url, moving } = await begin(t)
  const users = usersOf(40)
  await Promise.all(users.map(user => moving.set(user, 10)))
  const other = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => other.end())
  let slow: Promise<(Balance | undefined)[]> | undefined
  await other.begin(async sql => {
    await sql`SELECT 1 FROM quota_limits WHERE user_id = 'user-7' FOR UPDATE`
    slow = Promise.all([2, 3].map(amount => moving.credit('user-7', amount)))
    const all = await Promise.all(users.filter(user => user !== 'user-7').map(user => moving.credit(user, 1)))
    t.ok(all.every(one => one?.used === 9))
    await untilWaiting(db, 2)
  })
  await slow
  t.strictSame(await standing(db, 'user-7', 'bytes'), [5, 0, 995])
  t.strictSame(await violations(db), [])
})

t.test(
  'what is reserved, given back or charged while the statement comes to the counter is neither lost nor counted twice',
  async t => {
    const begun = await begin(t)
    const users = ['reserves', 'settles', 'charges', 'rests']
    await Promise.all(users.map(user => begun.moving.set(user, 100)))
    const held = new Map(
      await Promise.all(users.map(async user => [user, await hold(begun.db, user, { bytes: 10 })] as const))
    )
    // The snapshot is taken, and then some time passes before the counters are locked.
    const slow: Database['query'] = (text, values) =>
      begun.db.charging.query(
        text
          .replace('FROM jsonb_to_recordset', 'FROM pg_sleep(0.5), jsonb_to_recordset')
          .replace('SELECT *', 'SELECT i.*'),
        values
      )
    const slowed = Object.create(begun.db, { charging: { value: { query: slow, spare: { query: slow } } } })
    const { set } = begun.movingOn(new Reservations(slowed, PATIENCE_MS))
    const setting = Promise.all(users.map(user => set(user, 60)))
    await untilSleeping(begun.db)
    await tryHold(begun.db, 'reserves', { bytes: 3 })
    await commit(begun.db, 'settles', costing(held.get('settles')!, { bytes: 4 }), '/a')
    await new Reservations(begun.db, PATIENCE_MS).commit('charges', costing(held.get('charges')!), '/a')
    t.strictSame((await setting).map(figuresOf), [
      [60, 13],
      [60, 0],
      [60, 10],
      [60, 10]
    ])
    t.strictSame(await standing(begun.db, 'charges', 'bytes'), [70, 0, 930], 'as if it had been set just before')
    t.strictSame(await violations(begun.db), [])
  }
)

t.test('three processes that also charge and reserve leave each level the sum of its log', async t => {
  const begun = await begin(t, 100_000)
  const users = usersOf(5)
  const stores = await Promise.all([1, 2, 3].map(async () => new Reservations(await begun.open(), PATIENCE_MS)))
  const { typeId } = (await wanted(begun.db, { bytes: 1 }))[0]!
  await Promise.all(
    Array.from({ length: 1_500 }, async (_, i) => {
      const store = stores[i % 3]!
      const user = users[i % 5]!
      const { credit, set } = begun.movingOn(store)
      if (i % 4 === 0) return await credit(user, 3)
      if (i % 4 === 1) return await set(user, i)
      const admission = await store.reserve(user, [{ id: chargeId(), typeId, type: 'bytes', amount: 2 }], 60_000)
      if (!admission.admitted) throw new Error('denied')
      if (i % 4 === 2) return await store.release(user, admission.charges)
      return await store.commit(user, costing(admission.charges, { bytes: i % 8 === 3 ? 2 : 5 }), '/a')
    })
  )
  t.equal(await deadlocks(begun.db), 0)
  t.strictSame(await violations(begun.db), [])
})

t.test('while users are deleted, every level is moved', async t => {
  const { db, moving } = await begin(t)
  const users = usersOf(6)
  let isOver = false
  const deleting = (async () => {
    for (let i = 0; !isOver; i++) await deleteUser(db, users[i % 6]!, BY)
  })()
  for (let round = 0; round < 20; round++) {
    const all = await Promise.all([
      ...users.map(user => moving.set(user, 9)),
      ...users.map(user => moving.credit(user, 2))
    ])
    t.ok(all.every(one => one !== undefined))
  }
  isOver = true
  await deleting
  t.equal(await deadlocks(db), 0)
  t.strictSame(await violations(db), [])
})

t.test('a known key is left out, and the first answer is that of its own turn', async t => {
  const begun = await begin(t)
  const { db, moving } = begun
  await moving.set('alice', 100)
  await hold(db, 'alice', { bytes: 8 })
  const first = await Promise.all([
    moving.credit('alice', 10, { key: 'a' }),
    moving.credit('alice', 20, { key: 'b' }),
    moving.credit('alice', 10, { key: 'a' })
  ])
  t.strictSame(first.map(figuresOf), [[90, 8], [70, 8], undefined])
  t.match(await recallCharge(db, 'alice', 'a'), {
    amount: -10,
    balance: { limit: 1_000, used: 90, reserved: 8, resetsAt: null }
  })
  t.match(await recallCharge(db, 'alice', 'b'), { amount: -20, balance: { used: 70, reserved: 8 } })
  const again = await Promise.all([
    moving.credit('alice', 10, { key: 'a' }),
    moving.credit('alice', 5),
    moving.credit('alice', 20, { key: 'b' })
  ])
  t.strictSame(again.map(figuresOf), [undefined, [65, 8], undefined])
  const alone = begun.movingOn(new Reservations(db, PATIENCE_MS, { distributed: true }))
  t.equal(await alone.credit('alice', 10, { key: 'a' }), undefined)
  t.strictSame(figuresOf(await alone.credit('alice', 1, { key: 'c' })), [64, 8])
  t.strictSame(await violations(db), [])
})

t.test('a key that several processes use at once is credited once, and those beside it are too', async t => {
  const begun = await begin(t, MOST)
  const users = usersOf(10)
  const stores = await Promise.all(
    [1, 2, 3].map(async () => begun.movingOn(new Reservations(await begun.open(), PATIENCE_MS)))
  )
  await Promise.all(users.map(user => begun.moving.set(user, 1_000)))
  for (let round = 0; round < 15; round++) {
    const outcomes = await Promise.allSettled(
      stores.flatMap(({ credit }, s) =>
        (s === 1 ? users.toReversed() : users).flatMap(user => [
          credit(user, 1, { key: `same-${round}` }),
          credit(user, 1)
        ])
      )
    )
    for (const outcome of outcomes)
      if (outcome.status === 'rejected')
        t.equal(stateOf(outcome.reason), '23505', 'the key was taken by another process')
  }
  for (const user of users) t.strictSame((await standing(begun.db, user, 'bytes'))[0], 1_000 - 15 * 4, user)
  t.equal(await deadlocks(begun.db), 0)
  t.strictSame(await violations(begun.db), [])
})

t.test('rows are looked up by key, even if planned while the tables were empty', async t => {
  const { db, url, movingOn } = await begin(t)
  const { watched: seenThrough, sent } = watched(db)
  const { credit } = movingOn(new Reservations(seenThrough, PATIENCE_MS))
  await credit('alice', 1)
  sent.length = 0
  await credit('alice', 1, { key: 'k' })
  t.equal(sent.length, 1)
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end())
  await sql`DELETE FROM quota_users`
  await sql`DELETE FROM usage_logs`
  await sql`VACUUM ANALYZE`
  const [{ text, values }] = sent as [(typeof sent)[0]]
  for (const scan of await scansOf(db.metering, text, values))
    t.match(scan['Index Cond'], /user_id/, JSON.stringify(scan))
})

t.test('with `distributed`, every statement is about one user', async t => {
  const begun = await begin(t)
  const { watched: seenThrough, sent } = watched(begun.db)
  const { credit, set } = begun.movingOn(new Reservations(seenThrough, PATIENCE_MS, { distributed: true }))
  const users = usersOf(4)
  await Promise.all(users.map(user => set(user, 50)))
  const all = await Promise.all(Array.from({ length: 40 }, (_, i) => credit(users[i % 4]!, 1)))
  t.ok(all.every(one => one !== undefined))
  for (const { values } of sent)
    t.ok(users.filter(user => JSON.stringify(values).includes(user)).length < 2, JSON.stringify(values))
  for (const user of users) t.strictSame(await standing(begun.db, user, 'bytes'), [40, 0, 960])
  t.strictSame(await violations(begun.db), [])
})

t.test('a role that may read the counters column by column moves them one by one', async t => {
  const { db, url, movingOn } = await begin(t)
  const [row] = await db.query<{ columns: string }>(
    "SELECT string_agg(attname, ', ') AS columns FROM pg_attribute WHERE attrelid = 'quota_limits'::regclass AND attnum > 0 AND NOT attisdropped"
  )
  const admin = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => admin.end())
  await admin.unsafe(`
    CREATE ROLE reader LOGIN PASSWORD 'reader';
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO reader;
    REVOKE SELECT ON quota_limits FROM reader;
    GRANT SELECT (${row!.columns}) ON quota_limits TO reader`)
  const as = new URL(url)
  as.username = 'reader'
  as.password = 'reader'
  const reader = await connect({ url: as.href }, { storeTimeoutMs: PATIENCE_MS })
  t.teardown(() => reader.close())
  const { watched: seenThrough, sent } = watched(reader)
  const { credit, set } = movingOn(new Reservations(seenThrough, PATIENCE_MS))
  const users = usersOf(5)
  t.ok((await Promise.all(users.map(user => set(user, 10)))).every(one => one?.used === 10))
  t.ok((await Promise.all(users.map(user => credit(user, 3)))).every(one => one?.used === 7))
  t.equal(sent.filter(({ on }) => on === 'charging').length, 1, 'it is tried once')
  t.strictSame(await violations(db), [])
})
