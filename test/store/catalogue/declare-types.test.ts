import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { listTypes } from '../../../src/store/catalogue/list-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { both } from '../../fixtures/both.ts'
import { costing, hold, standing } from '../../fixtures/charges.ts'

const onBoth = await both(t)
const AT = new Date('2026-03-10T12:00:00Z')

onBoth('a declared type is stored with its defaults filled in', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, bytes: { name: 'Storage', unit: 'byte', limit: -1, kind: 'level' } })
  t.match(await listTypes(db), [
    { key: 'bytes', name: 'Storage', unit: 'byte', kind: 'level', period: 'never', defaultLimit: -1, isActive: true },
    { key: 'calls', name: 'calls', unit: 'call', kind: 'flow', period: 'month', defaultLimit: 10, isActive: true }
  ])
})

onBoth('a deploy applies what changed in its declaration, and leaves what an operator set', async (t, db) => {
  await declareTypes(db, { calls: { name: 'Calls', limit: 10 } })
  await hold(db, 'alice', { calls: 1 })
  await db.query("UPDATE quota_types SET default_limit = 500, unit = 'request'")
  await declareTypes(db, { calls: { name: 'Calls', limit: 10 } })
  t.match(await listTypes(db), [{ name: 'Calls', defaultLimit: 500, unit: 'request' }])
  await declareTypes(db, { calls: { name: 'API calls', limit: 10 } })
  t.match(await listTypes(db), [{ name: 'API calls', defaultLimit: 500, unit: 'request' }])
  await declareTypes(db, { calls: { name: 'API calls', limit: 20 } })
  t.match(await listTypes(db), [{ name: 'API calls', defaultLimit: 20, unit: 'request' }])
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 1, 9])
  t.strictSame(await standing(db, 'bob', 'calls'), [0, 0, 20])
})

onBoth('declaring a flow as a level, or the reverse, is refused and changes nothing', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, bytes: { limit: 5, kind: 'level' } })
  await t.rejects(declareTypes(db, { calls: { limit: 99, kind: 'level' } }), {
    code: 'FST_QUOTA_KIND_CHANGED',
    message: /'calls'/
  })
  await t.rejects(declareTypes(db, { bytes: { limit: 99 } }), { code: 'FST_QUOTA_KIND_CHANGED' })
  t.match(await listTypes(db), [
    { key: 'bytes', kind: 'level', defaultLimit: 5 },
    { key: 'calls', kind: 'flow', defaultLimit: 10 }
  ])
  await db.query("UPDATE quota_types SET kind = 'level', period = 'never' WHERE type_key = 'calls'")
  await t.rejects(
    declareTypes(db, { calls: { limit: 10 } }),
    { code: 'FST_QUOTA_KIND_CHANGED' },
    'also where its kind was changed by hand since'
  )
})

onBoth('an endless flow ends when it is given a period, and its usage is kept as history', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'never' } })
  const held = await hold(db, 'alice', { calls: 8 })
  await declareTypes(db, { calls: { limit: 10, period: 'month' } })
  // Its end is rounded up to a whole millisecond.
  await sleep(5)
  const [next] = await hold(db, 'alice', { calls: 5 })
  t.match(next!.balance, { used: 0, reserved: 5 })
  t.ok(next!.balance.resetsAt instanceof Date)
  await commit(db, 'alice', costing(held), null)
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 5, 5])
})

onBoth('a new period length begins when the running period ends', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10, period: 'month' } })
  await hold(db, 'alice', { calls: 8 }, { at: AT })
  await declareTypes(db, { calls: { limit: 10, period: 'day' } })
  t.match((await hold(db, 'alice', { calls: 1 }, { at: AT }))[0]!.balance, {
    reserved: 9,
    resetsAt: '2026-04-01'
  })
  t.match((await hold(db, 'alice', { calls: 1 }, { at: new Date('2026-04-01T05:00:00Z') }))[0]!.balance, {
    reserved: 1,
    resetsAt: '2026-04-02'
  })
})
