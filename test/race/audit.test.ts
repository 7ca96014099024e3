import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { setType } from '../../src/store/catalogue/set-type.ts'
import { ensureUser } from '../../src/store/charge/ensure-user.ts'
import type { Database } from '../../src/store/database.ts'
import { adjustQuota } from '../../src/store/operator/adjust-quota.ts'
import { deleteUser } from '../../src/store/operator/delete-user.ts'
import { fixCounters } from '../../src/store/operator/fix-counter.ts'
import { listAudit } from '../../src/store/operator/list-audit.ts'
import { resetQuota } from '../../src/store/operator/reset-quota.ts'
import { setUsers } from '../../src/store/operator/set-users.ts'
import { updateUser } from '../../src/store/operator/update-user.ts'
import { viewQuotas } from '../../src/store/operator/view-quotas.ts'
import { auditOf, BY } from '../fixtures/charges.ts'
import { crowd, server } from '../fixtures/database.ts'
import { inTransaction } from '../fixtures/in-transaction.ts'
import { deadlocks, untilWaiting } from '../fixtures/lock-waits.ts'

const pg = await server(t)

const database = async () => {
  const db = await crowd(await pg.migrated(), 10)
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 10 } })
  await ensureUser(db, 'alice')
  return db
}

/** A row's time is in milliseconds: two rows of the same millisecond have no order. */
const A_WHILE_MS = 5

t.test('adjustments are recorded in the order they were made, whichever transaction began first', async t => {
  const db = await database()
  let waiting: Promise<unknown> | undefined
  await inTransaction(db, async early => {
    await early.query('SELECT now()')
    for (const [who, limit] of [
      [db, 20],
      [db, 30],
      [early, 40]
    ] as const) {
      await sleep(A_WHILE_MS)
      await adjustQuota(who, 'alice', 'calls', limit, BY)
    }
    waiting = adjustQuota(db, 'alice', 'calls', 50, BY)
    await untilWaiting(db)
    await sleep(A_WHILE_MS)
  })
  await waiting
  const rows = (await auditOf(db, 'alice')) as { before: { limit: number }; after: { limit: number } }[]
  t.strictSame(
    rows.map(({ before, after }) => [before.limit, after.limit]),
    [
      [10, 20],
      [20, 30],
      [30, 40],
      [40, 50]
    ]
  )
  t.match((await viewQuotas(db, 'alice', 'calls')).quotas, [{ limit: 50 }], 'the newest is in force')
})

t.test('what a list of users changes is recorded with what was there when it came to the user', async t => {
  const db = await database()
  const user = { id: 'alice', email: null, timeZone: 'Asia/Kolkata', periodAnchor: null }
  let waiting: Promise<unknown> | undefined
  await inTransaction(db, async inside => {
    await updateUser(inside, 'alice', { timeZone: 'Asia/Tokyo' }, BY)
    waiting = setUsers(db, [user], BY)
    await untilWaiting(db)
  })
  t.strictSame(await waiting, { added: 0, changed: 1 })
  const zones = (await auditOf(db, 'alice')).map(({ before, after }) =>
    [before, after].map(state => (state as { time_zone: string }).time_zone)
  )
  t.strictSame(zones, [
    ['UTC', 'Asia/Tokyo'],
    ['Asia/Tokyo', 'Asia/Kolkata']
  ])
})

t.test('lists of the same users in opposite orders do not deadlock', async t => {
  const db = await database()
  const users = Array.from({ length: 200 }, (_, i) => ({ id: `user-${i}`, email: null, periodAnchor: null }))
  const zones = ['Asia/Tokyo', 'Asia/Kolkata', 'Asia/Tehran', 'Asia/Seoul', 'Asia/Dubai', 'Asia/Dhaka']
  await setUsers(
    db,
    users.map(user => ({ ...user, timeZone: 'UTC' })),
    BY
  )
  for (let round = 0; round < 5; round++)
    await Promise.all(
      zones.map((timeZone, i) => {
        const list = users.map(user => ({ ...user, timeZone }))
        return setUsers(db, i % 2 === 0 ? list : list.reverse(), BY)
      })
    )
  t.equal(await deadlocks(db), 0)
})

/** Every change that the audit log keeps, by its action. */
const CHANGES: Record<string, (db: Database) => Promise<unknown>> = {
  adjust: db => adjustQuota(db, 'alice', 'calls', 20, BY),
  reset: db => resetQuota(db, 'alice', 'calls', BY),
  reconcile: async db => {
    await db.query("UPDATE quota_limits SET used_amount = 3 WHERE user_id = 'alice'")
    await fixCounters(db, BY)
  },
  'update_user, one': db => updateUser(db, 'alice', { timeZone: 'Asia/Tokyo' }, BY),
  'update_user, many': db =>
    setUsers(db, [{ id: 'alice', email: null, timeZone: 'Asia/Kolkata', periodAnchor: null }], BY),
  'update_type, by an operator': db => setType(db, 'calls', { name: 'Calls' }, BY),
  'create_type, by an operator': db => setType(db, 'tokens', { default_limit: 1 }, BY),
  'update_type, by code': db => declareTypes(db, { calls: { limit: 30 } }, BY),
  'create_type, by code': db => declareTypes(db, { pages: { limit: 1 } }, BY),
  delete_user: db => deleteUser(db, 'alice', BY)
}

t.test('the newest row is the last change, even if its transaction began before the others', async t => {
  const db = await database()
  await ensureUser(db, 'bob')
  for (const [change, make] of Object.entries(CHANGES)) {
    await inTransaction(db, async early => {
      await early.query('SELECT now()')
      await sleep(A_WHILE_MS)
      await adjustQuota(db, 'bob', 'calls', 20, BY)
      await sleep(A_WHILE_MS)
      await make(early)
    })
    const [newest] = await listAudit(db, {}, { limit: 1, offset: 0, after: undefined })
    t.match(newest, { action: change.split(',')[0], actor: BY.actor }, change)
    t.not(newest?.userId, 'bob', change)
  }
})
