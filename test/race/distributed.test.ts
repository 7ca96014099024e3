// With tables distributed by user, no statement of a request may concern two users, and everything else still holds.
import { setTimeout as sleep } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import t from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { connect } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { Reservations } from '../../src/store/group/reservations.ts'
import { DenialTally } from '../../src/upkeep/denial-tally.ts'
import { LiveReservationSet } from '../../src/upkeep/live-reservations.ts'
import { type Amounts, costing, wanted } from '../fixtures/charges.ts'
import { crowd, server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { metered } from '../fixtures/metered.ts'

const pg = await server(t)
const USERS = ['alice', 'bob', "c'arol", 'dave/😀']

/** The same database, recording what is sent to it. */
function watched(db: Database): { db: Database; sent: string[] } {
  const sent: string[] = []
  const watch = (lane: Pick<Database, 'query'>): Pick<Database, 'query'> => ({
    query: (text, values = [], deadlineMs) => {
      sent.push(JSON.stringify(values))
      return lane.query(text, values, deadlineMs)
    }
  })
  const lane = (value: Pick<Database, 'query'>) => ({ value: watch(value) })
  return {
    db: Object.create(db, {
      query: { value: watch(db).query },
      metering: lane(db.metering),
      holding: lane(db.holding),
      charging: lane(db.charging)
    }) as Database,
    sent
  }
}

const usersIn = (values: string) =>
  USERS.filter(user => values.includes(JSON.stringify(JSON.stringify(user)).slice(3, -3)))

t.test('every statement concerns one user, whose requests share statements and are counted exactly', async t => {
  const plain = await crowd(await pg.migrated(), 20)
  t.teardown(() => plain.close())
  await declareTypes(plain, { calls: { limit: 40 }, others: { limit: 1_000 } })
  const { db, sent } = watched(plain)
  const stores = [
    new Reservations(db, 20_000, { distributed: true }),
    new Reservations(db, 20_000, { distributed: true })
  ]
  const live = new LiveReservationSet(0, { distributed: true })
  let admitted = 0
  await Promise.all(
    Array.from({ length: 400 }, async (_, i) => {
      const userId = USERS[i % USERS.length] as string
      const store = stores[i % 2] as Reservations
      const amounts: Amounts = i % 10 === 0 ? { calls: 1, others: 2 } : { calls: 1 }
      const charges = (await wanted(plain, amounts)).map(charge => ({ ...charge, id: v7() }))
      const outcome = await store.reserve(userId, charges, 60_000)
      if (!outcome.admitted) return
      live.add(
        userId,
        charges.map(({ id }) => id)
      )
      if (i % 7 === 0) await store.release(userId, outcome.charges)
      else {
        admitted += 1
        await store.commit(userId, costing(outcome.charges), '/a')
      }
    })
  )
  const perUser = await plain.query<{ used: number }>(
    `SELECT used_amount::int AS used FROM quota_limits l JOIN quota_types t ON t.id = l.quota_type_id WHERE type_key = 'calls' ORDER BY user_id`
  )
  t.equal(
    perUser.reduce((sum, { used }) => sum + used, 0),
    admitted
  )
  t.ok(perUser.every(({ used }) => used <= 40))
  t.strictSame(await violations(plain), [])

  await live.renew(db)
  const tally = new DenialTally(db, { distributed: true })
  for (const userId of USERS)
    tally.hear({ name: 'denied', userId, at: new Date(), charges: [{ type: 'calls', amount: 1 }] } as never)
  await tally.flush()
  t.equal((await plain.query('SELECT 1 FROM quota_denials')).length, USERS.length)

  t.strictSame(
    sent.filter(values => usersIn(values).length > 1),
    []
  )
  t.ok(sent.some(values => usersIn(values).length === 1))

  const before = sent.length
  await Promise.all(
    (await Promise.all(Array.from({ length: 100 }, () => wanted(plain, { others: 1 })))).map(charges =>
      stores[0]!.reserve('alice', charges, 60_000)
    )
  )
  t.ok(sent.length - before < 10, `100 requests of a user share ${sent.length - before} statements`)
})

t.test('with `distributed`, an application renews reservations and counts denials for each user alone', async t => {
  const client = postgres(await pg.migrated(), { max: 4, onnotice: () => {} })
  t.teardown(() => client.end())
  const sent: string[] = []
  const logger = { logQuery: (text: string, values: unknown[]) => void sent.push(text + JSON.stringify(values)) }
  const connection = drizzle(client, { logger })
  const options = { connection, distributed: true, reservationTtlMs: 600, storeTimeoutMs: 20_000 }
  const app = await metered(t, await connect(drizzle(client)), () => {}, {
    ...options,
    quotas: { calls: { limit: 1 } }
  })
  for (const user of USERS) {
    await app.quota.reserve(user, 'calls')
    await t.rejects(app.quota.reserve(user, 'calls'), { code: 'FST_QUOTA_EXCEEDED' })
  }
  const usersOf = (part: string) => sent.filter(line => line.includes(part)).map(usersIn)
  const renewed = () => new Set(usersOf('SET expires_at').flat())
  while (renewed().size < USERS.length) await sleep(20)
  await app.close()
  t.strictSame([...new Set(usersOf('INTO quota_denials').flat())].sort(), USERS)
  for (const part of ['SET expires_at', 'INTO quota_denials'])
    t.ok(
      usersOf(part).every(users => users.length === 1),
      part
    )
})

t.test('limits are exact when processes that group by user run beside ones that group across users', async t => {
  const plain = await crowd(await pg.migrated(), 20)
  t.teardown(() => plain.close())
  await declareTypes(plain, { calls: { limit: 30 } })
  const stores = [new Reservations(plain, 20_000, { distributed: true }), new Reservations(plain, 20_000)]
  const outcomes = await Promise.all(
    Array.from({ length: 300 }, async (_, i) => {
      const userId = USERS[i % USERS.length] as string
      const charges = (await wanted(plain, { calls: 1 })).map(charge => ({ ...charge, id: v7() }))
      const store = stores[i % 2] as Reservations
      const outcome = await store.reserve(userId, charges, 60_000)
      if (outcome.admitted) await store.commit(userId, costing(outcome.charges), '/a')
      return outcome.admitted
    })
  )
  t.equal(outcomes.filter(Boolean).length, USERS.length * 30)
  t.strictSame(await violations(plain), [])
})
