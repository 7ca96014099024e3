import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { listTypes } from '../../../src/store/catalogue/list-types.ts'
import { setType } from '../../../src/store/catalogue/set-type.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import type { Database } from '../../../src/store/database.ts'
import { both } from '../../fixtures/both.ts'
import { auditOf, BY, costing, hold, periodsOf, standing } from '../../fixtures/charges.ts'

const onBoth = await both(t)
const MAX = Number.MAX_SAFE_INTEGER

const typeOf = async (db: Database, key = 'calls') => (await listTypes(db)).find(type => type.key === key)

onBoth('creates a type as given, with defaults for the rest', async (t, db) => {
  t.equal(await setType(db, 'calls', { default_limit: 10 }, BY), 'created')
  const common = { description: null, isActive: true }
  t.match(await typeOf(db), { ...common, name: 'calls', unit: 'call', kind: 'flow', period: 'month', defaultLimit: 10 })
  const level = { name: "O'Brien's", description: '', unit: '山', kind: 'level' } as const
  t.equal(await setType(db, 'bytes', { ...level, default_limit: MAX, is_active: false }, BY), 'created')
  t.match(await typeOf(db, 'bytes'), { ...level, period: 'never', defaultLimit: MAX, isActive: false })
  t.equal(await setType(db, 'free', { default_limit: -1, period: 'hour' }, BY), 'created')
  t.match(await typeOf(db, 'free'), { defaultLimit: -1, period: 'hour' })
})

onBoth('changes only what is given, and null removes the description', async (t, db) => {
  await declareTypes(db, { calls: { name: 'Calls', description: 'All', unit: 'request', limit: 10, period: 'day' } })
  const before = (await typeOf(db))!
  t.equal(await setType(db, 'calls', { default_limit: 0 }, BY), 'updated')
  t.equal(await setType(db, 'calls', { is_active: false }, BY), 'updated')
  const { updatedAt, ...after } = (await typeOf(db))!
  const { updatedAt: was, ...rest } = before
  t.strictSame(after, { ...rest, defaultLimit: 0, isActive: false })
  t.ok(updatedAt >= was)
  t.equal(await setType(db, 'calls', { description: null, period: 'year' }, BY), 'updated')
  t.match(await typeOf(db), { name: 'Calls', description: null, unit: 'request', period: 'year', defaultLimit: 0 })
})

onBoth('refuses to change the kind, or to create a type without a limit, and changes nothing', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 } })
  const before = await listTypes(db)
  t.equal(await setType(db, 'calls', { kind: 'level', default_limit: 5 }, BY), 'another kind')
  t.equal(await setType(db, 'scans', { name: 'Scans' }, BY), 'without a limit')
  t.strictSame(await listTypes(db), before)
  t.equal((await auditOf(db, '')).filter(({ actor }) => actor === BY.actor).length, 0)
})

onBoth('writes who, why and what into the audit log, under no user', async (t, db) => {
  await setType(db, 'calls', { default_limit: 10 }, BY)
  await setType(db, 'calls', { default_limit: MAX, description: 'x' }, BY)
  const rows = (await auditOf(db, '')).sort((a, b) => String(a.action).localeCompare(String(b.action)))
  const was = {
    name: 'calls',
    description: null,
    unit: 'call',
    kind: 'flow',
    period: 'month',
    default_limit: 10,
    is_active: true
  }
  t.strictSame(
    rows.map(({ action, quota_type, before, after }) => [action, quota_type, before, after]),
    [
      ['create_type', 'calls', null, was],
      ['update_type', 'calls', was, { ...was, default_limit: MAX, description: 'x' }]
    ]
  )
  for (const row of rows) t.match(row, { actor: BY.actor, reason: BY.reason, request_id: BY.requestId })
})

onBoth('of several calls at once one creates the type, and the others update it', async (t, db) => {
  const outcomes = await Promise.all(
    Array.from({ length: 6 }, (_, i) => setType(db, 'calls', { default_limit: i }, BY))
  )
  t.strictSame([...outcomes].sort(), ['created', ...Array(5).fill('updated')])
  const kinds = await Promise.all(
    (['flow', 'level'] as const).map(kind => setType(db, 'bytes', { kind, default_limit: 1 }, BY))
  )
  t.strictSame(kinds.sort(), ['another kind', 'created'])
})

onBoth('what an operator set stays until the declaration of that property changes', async (t, db) => {
  await declareTypes(db, { calls: { name: 'Calls', limit: 10 } })
  await setType(
    db,
    'calls',
    { name: 'Mine', default_limit: 500, description: 'mine', unit: 'scan', is_active: false },
    BY
  )
  await declareTypes(db, { calls: { name: 'Calls', limit: 10 } })
  t.match(await typeOf(db), { name: 'Mine', defaultLimit: 500, description: 'mine', unit: 'scan', isActive: false })
  await declareTypes(db, { calls: { name: 'Calls', limit: 11 } })
  t.match(await typeOf(db), { name: 'Mine', defaultLimit: 11, description: 'mine', unit: 'scan', isActive: false })
  await setType(db, 'made', { default_limit: 1, name: 'Made', description: 'by hand' }, BY)
  await declareTypes(db, { made: { limit: 2 } })
  t.match(
    await typeOf(db, 'made'),
    { name: 'made', defaultLimit: 2, description: null },
    'a type that the code declares takes the values of the code'
  )
})

onBoth('an endless flow given a period ends now for every user; its usage is kept as history', async (t, db) => {
  await setType(db, 'calls', { default_limit: 10, period: 'never' }, BY)
  const held = await hold(db, 'alice', { calls: 3 })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 5 })), null)
  await commit(db, 'bob', costing(await hold(db, 'bob', { calls: 1 })), null)
  t.equal(await setType(db, 'calls', { period: 'month' }, BY), 'updated')
  // Its end is rounded up to a whole millisecond.
  await sleep(5)
  for (const user of ['alice', 'bob', 'carol']) t.strictSame(await standing(db, user, 'calls'), [0, 0, 10], user)
  await commit(db, 'alice', costing(held), null)
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 2 })), null)
  t.strictSame(await standing(db, 'alice', 'calls'), [2, 0, 8])
  const [first, second, ...more] = await periodsOf(db, 'alice', 'calls')
  t.strictSame(more, [])
  t.match(first, { used: 8, reserved: 0, limit: 10, closed: true, end: second!.start })
  t.match(second!.end, /-01T00:00:00\.000Z$/)
})

onBoth('changing a type keeps the end of running periods, and gives a level none', async (t, db) => {
  await declareTypes(db, { calls: { limit: 10 }, bytes: { limit: 10, kind: 'level' } })
  await hold(db, 'alice', { calls: 3, bytes: 3 })
  const ends = () => db.query('SELECT quota_type_id, period_end FROM quota_limits ORDER BY quota_type_id')
  const before = await ends()
  await setType(db, 'calls', { period: 'hour' }, BY)
  await setType(db, 'calls', { period: 'never' }, BY)
  await setType(db, 'calls', { period: 'month' }, BY)
  await setType(db, 'bytes', { unit: 'byte', period: 'month' }, BY)
  t.strictSame(await ends(), before)
})
