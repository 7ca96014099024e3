import t from 'tap'
import { commit } from '../../src/store/commit.ts'
import { declareTypes } from '../../src/store/declare-types.ts'
import { ensureUser } from '../../src/store/ensure-user.ts'
import { openPeriods } from '../../src/store/open-period.ts'
import { setType } from '../../src/store/set-type.ts'
import { BY, costing, tryHold } from '../fixtures/charges.ts'
import { crowd, server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'

t.test('a type that begins to restart ends what runs behind what was charged meanwhile', async t => {
  const pg = await server(t)
  const db = await crowd(await pg.migrated(), 12)
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: -1, period: 'never' } })
  const users = Array.from({ length: 40 }, (_, i) => `user ${i}`)
  for (const user of users) await ensureUser(db, user)
  // The statement waits here for one user's row, while others are charged.
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
  await new Promise(resolve => setTimeout(resolve, 200))
  t.equal(await setType(db, 'calls', { period: 'month' }, BY), 'updated')
  isOver = true
  await Promise.all([...charging, blocker])
  for (const user of users) await openPeriods(db, user)
  t.strictSame(await violations(db), [])
})
