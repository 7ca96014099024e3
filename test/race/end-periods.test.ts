import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { PeriodUnit } from '../../src/quota/period.ts'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { setType } from '../../src/store/catalogue/set-type.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { ensureUser } from '../../src/store/charge/ensure-user.ts'
import { openPeriods } from '../../src/store/charge/open-period.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { type Database, transaction } from '../../src/store/database.ts'
import { viewQuotas } from '../../src/store/operator/view-quotas.ts'
import { BY, costing, tryHold } from '../fixtures/charges.ts'
import { crowd, server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { untilWaiting } from '../fixtures/lock-waits.ts'

const pg = await server(t)

t.test('changing a type from never to month does not end a period before a charge made meanwhile', async t => {
  const db = await crowd(await pg.migrated(), 12)
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: -1, period: 'never' } })
  const users = Array.from({ length: 40 }, (_, i) => `user ${i}`)
  for (const user of users) await ensureUser(db, user)
  // The change waits for this user's row, while others are charged.
  const blocker = db.query(
    "WITH l AS (SELECT * FROM quota_limits WHERE user_id = 'user 39' FOR UPDATE) SELECT pg_sleep(1) FROM l"
  )
  let isOver = false
  const charging = Array.from({ length: 6 }, async (_, worker) => {
    for (let i = worker; !isOver; i++) {
      const user = users[i % 39] as string
      const outcome = await tryHold(db, user, { calls: 1 })
      if (outcome.admitted) await commit(db, user, costing(outcome.charges), '/a')
    }
  })
  await sleep(200)
  t.equal(await setType(db, 'calls', { period: 'month' }, BY), 'updated')
  isOver = true
  await Promise.all([...charging, blocker])
  for (const user of users) await openPeriods(db, user)
  t.strictSame(await violations(db), [])
})

const WAYS = {
  declared: (db: Database, period: PeriodUnit) => declareTypes(db, { calls: { limit: 10, period } }),
  'set by an operator': (db: Database, period: PeriodUnit) => setType(db, 'calls', { default_limit: 10, period }, BY)
}

for (const [way, change] of Object.entries(WAYS)) {
  t.test(`a change from never to month that is ${way} leaves no counter without an end`, async t => {
    const db = await crowd(await pg.migrated(), 6)
    t.teardown(() => db.close())
    const endless = async () => (await db.query('SELECT 1 FROM quota_limits WHERE period_end IS NULL')).length
    let changing: Promise<unknown> | undefined
    let coming: Promise<unknown> | undefined

    await change(db, 'never')
    await transaction(db, async query => {
      await ensureUser(Object.create(db, { query: { value: query } }), 'alice')
      changing = change(db, 'month')
      await untilWaiting(db)
    })
    await changing
    t.equal(await endless(), 0, 'not even one that was opened before the change and committed later')

    await change(db, 'never')
    await db.query('UPDATE quota_limits SET period_end = NULL')
    await transaction(db, async query => {
      await query('SELECT 1 FROM quota_limits FOR UPDATE')
      changing = change(db, 'month')
      await untilWaiting(db)
      coming = ensureUser(db, 'bob')
      await untilWaiting(db, 2)
    })
    await Promise.all([changing, coming])
    t.equal(await endless(), 0, 'nor one of a user who appeared while the others were being ended')
    t.match((await viewQuotas(db, 'bob')).quotas, [{ resetsAt: Date }])
  })
}

for (const [way, change] of Object.entries(WAYS)) {
  t.test(`a change from never to month that is ${way} may take longer than other statements`, async t => {
    const url = await pg.migrated()
    const db = await connect({ url, max: 2 }, { deadlineMs: 300 })
    const other = await crowd(url, 2)
    t.teardown(() => Promise.all([db.close(), other.close()]))
    await change(db, 'never')
    await ensureUser(other, 'alice')
    const blocker = other.query('WITH l AS (SELECT * FROM quota_limits FOR UPDATE) SELECT pg_sleep(1) FROM l')
    await sleep(200)
    await change(db, 'month')
    await blocker
    t.match((await viewQuotas(other, 'alice')).quotas, [{ resetsAt: Date }])
  })
}
