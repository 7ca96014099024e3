import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { amend } from '../../../src/store/charge/amend.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { release } from '../../../src/store/charge/release.ts'
import { setLevel } from '../../../src/store/charge/set-level.ts'
import type { Database } from '../../../src/store/database.ts'
import { deleteUser } from '../../../src/store/operator/delete-user.ts'
import { listUsage } from '../../../src/store/operator/list-usage.ts'
import { both } from '../../fixtures/both.ts'
import { type Amounts, BY, costing, hold, logOf, periodsOf, standing, wanted } from '../../fixtures/charges.ts'

const onBoth = await both(t)
const JANUARY = new Date('2026-01-20T12:00:00Z')

/** Holds these amounts, and charges them in full. */
async function charged(db: Database, amounts: Amounts, at?: Date) {
  const held = await hold(db, 'alice', amounts, at && { at })
  await commit(db, 'alice', costing(held), '/chat')
  return held
}
const amountsOf = async (db: Database) => (await logOf(db, 'alice')).map(([amount]) => amount)

onBoth('amending to less gives the difference back, and the log row keeps its id, time and route', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await charged(db, { calls: 8 })
  const [before] = await listUsage(db, {}, { limit: 1 })
  const [wanted] = costing(held, { calls: 2 })
  const balances = await amend(db, 'alice', [{ ...wanted!, metadata: { model: 'small' } }])
  t.match(balances.get('calls'), { used: 2, reserved: 0, remaining: 8 })
  t.strictSame(await listUsage(db, {}, { limit: 10 }), [{ ...before, amount: 2, metadata: '{"model": "small"}' }])
})

onBoth(
  'amending to more is charged in full, even past the limit, and only once',
  async (t, db) => {
    await declareTypes(db, { calls: { limit: 10 }, bytes: { limit: 10, kind: 'level' } })
    const held = await charged(db, { calls: 3, bytes: 4 })
    for (let i = 0; i < 2; i++) {
      await amend(db, 'alice', costing(held, { calls: 25, bytes: 1 }))
      t.strictSame(await standing(db, 'alice', 'calls'), [25, 0, 0])
      t.strictSame(await standing(db, 'alice', 'bytes'), [1, 0, 9])
    }
  },
  { overLimit: true }
)

onBoth('amending leaves other reservations held', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await charged(db, { calls: 3 })
  const other = await hold(db, 'alice', { calls: 2 })
  const balances = await amend(db, 'alice', costing(held, { calls: 5 }))
  t.match(balances.get('calls'), { used: 5, reserved: 2, remaining: 3 })
  await release(db, 'alice', other)
})

onBoth('amending a charge of a closed period changes that period, not the running one', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'month' } })
  const held = await charged(db, { calls: 3 }, JANUARY)
  await charged(db, { calls: 1 })
  await amend(db, 'alice', costing(held, { calls: 7 }))
  t.match(await periodsOf(db, 'alice', 'calls'), [{ used: 7, closed: true }, { closed: false }])
  t.strictSame(await standing(db, 'alice', 'calls'), [1, 0, 9])
})

onBoth('amending an old log row leaves a mark, so that its rollups are computed again', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await charged(db, { calls: 3 }, new Date(Date.now() - 3_600_000))
  await db.query('DELETE FROM quota_usage_marks')
  await amend(db, 'alice', costing(held, { calls: 4 }))
  const marks = await db.query('SELECT 1 FROM quota_usage_marks WHERE user_id = $1', ['alice'])
  t.equal(marks.length, 1)
})

onBoth('amending a charge without a log row changes nothing: still held, released, or user deleted', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const held = await hold(db, 'alice', { calls: 3 })
  await amend(db, 'alice', costing(held, { calls: 5 }))
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 3, 7])
  await release(db, 'alice', held)
  await amend(db, 'alice', costing(held, { calls: 5 }))
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 0, 10])
  const gone = await charged(db, { calls: 3 })
  await deleteUser(db, 'alice', BY)
  t.equal((await amend(db, 'alice', costing(gone, { calls: 5 }))).size, 0)
  t.strictSame(await amountsOf(db), [])
})

onBoth('amending is refused where a level that was set lower since would fall below what is held', async (t, db) => {
  await declareTypes(db, { bytes: { limit: 10, kind: 'level' } })
  const held = await charged(db, { bytes: 6 })
  const [to] = await wanted(db, { bytes: 3 })
  await setLevel(db, { ...to!, userId: 'alice', move: 'set', endpoint: null, metadata: {}, idempotencyKey: null })
  const other = await hold(db, 'alice', { bytes: 2 })
  await t.rejects(amend(db, 'alice', costing(held, { bytes: 1 })), {
    code: 'FST_QUOTA_STORE',
    cause: { code: '23514' }
  })
  await release(db, 'alice', other)
  t.strictSame(await standing(db, 'alice', 'bytes'), [3, 0, 7])
})
