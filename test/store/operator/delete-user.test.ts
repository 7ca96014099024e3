import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { charge } from '../../../src/store/charge/charge.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { release } from '../../../src/store/charge/release.ts'
import { reserve } from '../../../src/store/charge/reserve.ts'
import { connect } from '../../../src/store/connection/connect.ts'
import { type Database, stateOf } from '../../../src/store/database.ts'
import { adjustQuota } from '../../../src/store/operator/adjust-quota.ts'
import { deleteUser } from '../../../src/store/operator/delete-user.ts'
import { resetQuota } from '../../../src/store/operator/reset-quota.ts'
import { countDenials } from '../../../src/store/upkeep/count-denials.ts'
import { pruneUsage } from '../../../src/store/upkeep/prune-usage.ts'
import { both } from '../../fixtures/both.ts'
import {
  type Amounts,
  auditOf,
  BY,
  costing,
  hold,
  periodsOf,
  standing,
  tryHold,
  wanted
} from '../../fixtures/charges.ts'
import { server } from '../../fixtures/database.ts'
import { inTransaction } from '../../fixtures/in-transaction.ts'
import { violations } from '../../fixtures/invariants.ts'
import { untilWaiting } from '../../fixtures/lock-waits.ts'
import { rowsOf } from '../../fixtures/meter.ts'

const onBoth = await both(t)
const AT = new Date('2026-03-10T12:00:00Z')

async function live(db: Database, userId: string): Promise<void> {
  await commit(db, userId, costing(await hold(db, userId, { calls: 4, bytes: 3 })), null)
  await resetQuota(db, userId, 'calls', BY)
  const charges = await wanted(db, { calls: 5 })
  await charge(db, { userId, charges, endpoint: null, metadata: {}, idempotencyKey: 'once' })
  await countDenials(db, [{ userId, type: 'calls', hour: AT, denials: 3 }])
}

const TYPES = { bytes: { limit: 100, kind: 'level' }, calls: { limit: 10 }, free: { limit: -1 } } as const

onBoth('deletes everything of the user, and nothing of anybody else', async (t, db) => {
  await declareTypes(db, TYPES)
  for (const user of ['alice', 'bob', "O'Brien", 'al%', 'a_ice']) await live(db, user)
  await hold(db, 'alice', { calls: 2, bytes: 1 })
  const ofBob = await rowsOf(db, 'bob')
  t.equal(await deleteUser(db, 'alice', BY), true)
  t.strictSame(await rowsOf(db, 'alice'), {})
  for (const table of ['quota_periods', 'quota_denials'])
    t.equal((await db.query(`SELECT 1 FROM ${table} WHERE user_id = 'alice'`)).length, 0, table)
  t.strictSame(await rowsOf(db, 'bob'), ofBob)
  t.equal(await deleteUser(db, "O'Brien", BY), true)
  t.equal(await deleteUser(db, 'al%', BY), true)
  t.strictSame(
    (await db.query<{ id: string }>('SELECT id FROM quota_users ORDER BY id')).map(({ id }) => id),
    ['a_ice', 'bob']
  )
  t.strictSame(await standing(db, 'bob', 'calls'), [5, 0, 5])
})

onBoth('writes one audit row with what was deleted, without the email, and none for an unknown user', async (t, db) => {
  await declareTypes(db, TYPES)
  await live(db, 'alice')
  await hold(db, 'alice', { calls: 2 })
  await db.query("UPDATE quota_users SET email = 'alice@example.com', period_anchor = '2026-01-31'")
  t.equal(await deleteUser(db, 'alice', BY), true)
  t.equal(await deleteUser(db, 'alice', BY), false)
  t.equal(await deleteUser(db, 'nobody', BY), false)
  const rows = (await auditOf(db, 'alice')).filter(({ action }) => action === 'delete_user')
  t.equal(rows.length, 1)
  t.match(rows[0], { actor: BY.actor, reason: BY.reason, request_id: BY.requestId, quota_type: null, after: null })
  const { created_at: _, ...before } = rows[0]!.before as Record<string, unknown>
  t.strictSame(before, {
    time_zone: 'UTC',
    period_anchor: '2026-01-31',
    quotas: { bytes: { limit: 100, used: 3 }, calls: { limit: 10, used: 5 }, free: { limit: -1, used: 0 } }
  })
  t.strictSame(await auditOf(db, 'nobody'), [])
})

onBoth('deletes a user who has no counter yet', async (t, db) => {
  await db.query("INSERT INTO quota_users (id) VALUES ('alice')")
  t.equal(await deleteUser(db, 'alice', BY), true)
  t.match(await auditOf(db, 'alice'), [{ action: 'delete_user', before: { quotas: {} } }])
})

onBoth('of several deletions at once exactly one deletes the user', async (t, db) => {
  await declareTypes(db, TYPES)
  await live(db, 'alice')
  const deleted = await Promise.all(Array.from({ length: 4 }, () => deleteUser(db, 'alice', BY)))
  t.equal(deleted.filter(Boolean).length, 1)
  t.equal((await auditOf(db, 'alice')).filter(({ action }) => action === 'delete_user').length, 1)
})

onBoth(
  'a commit after the deletion is refused with SQLSTATE 23502, a release finds nothing, and neither leaves a row',
  async (t, db) => {
    await declareTypes(db, TYPES)
    const late = await hold(db, 'alice', { calls: 2, bytes: 1 })
    const given = await hold(db, 'alice', { calls: 1 })
    await deleteUser(db, 'alice', BY)
    const error = await commit(db, 'alice', costing(late), null).catch(error => error)
    t.equal(stateOf(error), '23502')
    t.equal((await release(db, 'alice', given)).size, 0)
    t.strictSame(await rowsOf(db, 'alice'), {})
  }
)

for (const type of ['calls', 'bytes', 'once']) {
  onBoth(`what was held before a deletion is not charged to a new user with the same id: ${type}`, async (t, db) => {
    await declareTypes(db, { ...TYPES, once: { limit: 10, period: 'never' } })
    const late = await hold(db, 'alice', { [type]: 2 })
    const given = await hold(db, 'alice', { [type]: 1 })
    await deleteUser(db, 'alice', BY)
    await commit(db, 'alice', costing(await hold(db, 'alice', { [type]: 1 })), null)
    const before = await standing(db, 'alice', type)
    await commit(db, 'alice', costing(late), null).catch(() => {})
    await release(db, 'alice', given)
    t.strictSame(await standing(db, 'alice', type), before)
    t.equal((await periodsOf(db, 'alice', type)).length, 1)
    t.match(await rowsOf(db, 'alice'), { usage_logs: 1 })
  })
}

onBoth(
  'a reserve whose user is deleted five times while it opens the counters is admitted, and does not report a type as gone',
  async (t, db) => {
    await declareTypes(db, TYPES)
    const charges = await wanted(db, { calls: 1, bytes: 1 })
    let deletions = 0
    const interrupted: Database = Object.create(db, {
      query: {
        value: async (...given: Parameters<Database['query']>) => {
          if (
            given[0].includes('INSERT INTO quota_reservations') &&
            deletions < 5 &&
            (await deleteUser(db, 'alice', BY))
          )
            deletions++
          return await db.query(...given)
        }
      }
    })
    t.match(await reserve(interrupted, { userId: 'alice', charges, leaseMs: 60_000 }), { admitted: true })
    t.equal(deletions, 5)
    t.strictSame(await standing(db, 'alice', 'calls'), [0, 1, 9])
  }
)

onBoth('a reset and an adjustment whose user is deleted meanwhile change nothing', async (t, db) => {
  await declareTypes(db, TYPES)
  const interrupted: Database = Object.create(db, {
    query: {
      value: async (...given: Parameters<Database['query']>) => {
        if (given[0].includes('INSERT INTO quota_limits')) await deleteUser(db, 'alice', BY)
        return await db.query(...given)
      }
    }
  })
  const isKnown = () => db.query("INSERT INTO quota_users (id) VALUES ('alice')")
  await isKnown()
  t.equal(await adjustQuota(interrupted, 'alice', 'calls', 5, BY), undefined)
  await isKnown()
  t.strictSame(await resetQuota(interrupted, 'alice', 'calls', BY), [])
  t.strictSame(await rowsOf(db, 'alice'), {})
})

t.test('a user with requests under way', async t => {
  const pg = await server(t)
  const database = async (url: string, max: number) => {
    const db = await connect({ url, max })
    t.teardown(() => db.close())
    return db
  }

  t.test('a deletion waits for a commit under way, and deletes what it charged', async t => {
    const db = await database(await pg.migrated(), 10)
    await declareTypes(db, TYPES)
    const held = await hold(db, 'alice', { calls: 2, bytes: 1 })
    let deletion: Promise<boolean> | undefined
    await inTransaction(db, async inside => {
      await commit(inside, 'alice', costing(held), null)
      deletion = deleteUser(db, 'alice', BY)
      await untilWaiting(db)
    })
    t.equal(await deletion, true)
    t.strictSame(await rowsOf(db, 'alice'), {})
    t.match(await auditOf(db, 'alice'), [{ before: { quotas: { calls: { used: 2 }, bytes: { used: 1 } } } }])
  })

  t.test(
    'a deletion waits while old log rows are deleted, and deletes those of the same time that are kept',
    async t => {
      const db = await database(await pg.migrated(), 10)
      await declareTypes(db, TYPES)
      await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 2, bytes: 1 }, { at: AT })), null)
      await resetQuota(db, 'alice', 'calls', BY)
      let pruning: ReturnType<typeof pruneUsage> | undefined
      let deletion: Promise<boolean> | undefined
      await inTransaction(db, async inside => {
        await inside.query("SELECT 1 FROM quota_periods WHERE user_id = 'alice' FOR UPDATE")
        pruning = pruneUsage(db, new Date())
        await untilWaiting(db)
        deletion = deleteUser(db, 'alice', BY)
        await untilWaiting(db, 2)
      })
      t.match(await pruning, { deleted: 1 })
      t.equal(await deletion, true)
      t.strictSame(await rowsOf(db, 'alice'), {})
    }
  )

  t.test('a reserve that waits for a deletion creates the user again', async t => {
    const db = await database(await pg.migrated(), 10)
    await declareTypes(db, TYPES)
    await hold(db, 'alice', { calls: 9, bytes: 1 })
    for (const amounts of [{ calls: 1 }, { calls: 1, bytes: 1 }] as Record<string, number>[]) {
      let reserving: ReturnType<typeof tryHold> | undefined
      await inTransaction(db, async inside => {
        await deleteUser(inside, 'alice', BY)
        reserving = tryHold(db, 'alice', amounts)
        await untilWaiting(db)
      })
      t.match(await reserving, { admitted: true })
      t.strictSame(await standing(db, 'alice', 'calls'), [0, 1, 9])
    }
    t.strictSame(await violations(db), [])
  })

  t.test('while twenty clients reserve, commit and release for the user, deletions make only commits fail', async t => {
    const url = await pg.migrated()
    const db = await database(url, 4)
    // They stand for as many processes, since one has few connections.
    const clients = await Promise.all(Array.from({ length: 20 }, () => database(url, 1)))
    await declareTypes(db, { ...TYPES, calls: { limit: -1 }, bytes: { limit: -1, kind: 'level' } })
    const failures: Record<string, number> = {}
    let isOver = false
    const attempt = async <T>(step: string, work: () => Promise<T>): Promise<T | undefined> => {
      try {
        return await work()
      } catch (error) {
        const name = `${step}: ${stateOf(error) ?? error}`
        failures[name] = (failures[name] ?? 0) + 1
        return undefined
      }
    }
    const running = Promise.all(
      clients.map(async (client, i) => {
        for (let n = i; !isOver; n++) {
          const amounts: Amounts = n % 3 ? { calls: 1 } : { bytes: 1, calls: 1 }
          const held = await attempt('reserve', () => hold(client, 'alice', amounts))
          if (held === undefined) continue
          if (n % 4) await attempt('commit', () => commit(client, 'alice', costing(held), null))
          else await attempt('release', () => release(client, 'alice', held))
        }
      })
    )
    let deletions = 0
    const giveUpAt = Date.now() + 60_000
    while (deletions < 6 && Date.now() < giveUpAt) {
      await attempt('delete', async () => {
        if (await deleteUser(db, 'alice', BY)) deletions++
      })
      await sleep(50)
    }
    isOver = true
    await running
    t.comment(`${deletions} deletions, ${JSON.stringify(failures)}`)
    const { 'commit: 23503': _, 'commit: 23502': __, ...unexpected } = failures
    t.strictSame(unexpected, {})
    t.strictSame(await violations(db), [])
    if (await deleteUser(db, 'alice', BY)) deletions++
    t.strictSame(await rowsOf(db, 'alice'), {})
    t.equal((await auditOf(db, 'alice')).length, deletions)
  })
})
