import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { setType } from '../../../src/store/catalogue/set-type.ts'
import { TypeCatalogue } from '../../../src/store/catalogue/type-catalogue.ts'
import type { Database } from '../../../src/store/database.ts'
import { BY } from '../../fixtures/charges.ts'
import { embedded } from '../../fixtures/database.ts'
import { empty } from '../../fixtures/empty.ts'

const db = await embedded(t)
t.beforeEach(() => empty(db))

const UNKNOWN = { code: 'FST_QUOTA_UNKNOWN_TYPE' }

/** The database, and how often the types were read from it. */
function counted(): { db: Database; reads(): number } {
  let reads = 0
  const query: Database['query'] = (...statement) => {
    reads += 1
    return db.query(...statement)
  }
  return { db: { ...db, query }, reads: () => reads }
}

const now = performance.now.bind(performance)

/** Puts `performance.now()` ahead by this much, until the test is over. */
function later(t: Test, milliseconds: number): void {
  t.intercept(performance, 'now', { value: () => now() + milliseconds })
}

async function opened(on: Database = db): Promise<TypeCatalogue> {
  const types = new TypeCatalogue(on, 900)
  await types.refresh()
  return types
}

const limitOf = async (types: TypeCatalogue, key = 'calls') => (await types.get(key, 'here')).defaultLimit

t.test('gives a type by its key, and names an unknown key and where it was used', async t => {
  await declareTypes(db, { calls: { limit: 10 } })
  const types = await opened()
  t.match(await types.get('calls', 'here'), { key: 'calls', defaultLimit: 10, isActive: true })
  for (const key of ['nothing', '', 'CALLS', '__proto__', 'constructor', 'toString'])
    await t.rejects(types.get(key, 'named in a test'), { ...UNKNOWN, message: `'${key}' (named in a test)` }, key)
})

t.test('sees changes at once after a refresh()', async t => {
  await declareTypes(db, { calls: { limit: 10 } })
  const types = await opened()
  await setType(db, 'calls', { default_limit: 20 }, BY)
  t.equal(await limitOf(types), 10)
  await types.refresh()
  t.equal(await limitOf(types), 20)
})

t.test('after 2.5 seconds a use reads the types again without waiting, and the next one sees changes', async t => {
  await declareTypes(db, { calls: { limit: 10 } })
  const types = await opened()
  await setType(db, 'calls', { default_limit: 20, is_active: false }, BY)
  t.equal(await limitOf(types), 10)
  later(t, 2_000)
  t.equal(await limitOf(types), 10)
  await sleep(100)
  t.equal(await limitOf(types), 10, 'not read again before that')
  later(t, 2_501)
  t.equal(await limitOf(types), 10, 'the first use does not wait')
  await sleep(100)
  t.match(await types.get('calls', 'here'), { defaultLimit: 20, isActive: false })
})

t.test('after five seconds without a use, the next one waits and sees changes of another process', async t => {
  await declareTypes(db, { calls: { limit: 10 } })
  const { db: on, reads } = counted()
  const types = await opened(on)
  await setType(db, 'calls', { default_limit: 20 }, BY)
  later(t, 5_001)
  t.equal(types.known, undefined)
  t.strictSame(await Promise.all(Array.from({ length: 50 }, () => limitOf(types))), Array(50).fill(20))
  t.equal(reads(), 2, 'all uses wait for one read')
})

t.test('sees changes of another process even if the clock of this one is set back', async t => {
  await declareTypes(db, { calls: { limit: 10 } })
  const types = await opened()
  const { now: clock } = Date
  t.intercept(Date, 'now', { value: () => clock() - 3_600_000 })
  await setType(db, 'calls', { default_limit: 20 }, BY)
  await setType(db, 'fresh', { default_limit: 5 }, BY)
  later(t, 2_501)
  t.equal(await limitOf(types, 'fresh'), 5)
  t.equal(await limitOf(types), 20)
})

t.test('reads once after 2.5 seconds, however many uses there are', async t => {
  await declareTypes(db, { calls: { limit: 10 } })
  const { db: on, reads } = counted()
  const types = await opened(on)
  t.equal(reads(), 1)
  later(t, 3_000)
  await Promise.all(Array.from({ length: 50 }, () => types.get('calls', 'here')))
  await sleep(100)
  for (let i = 0; i < 50; i++) await types.get('calls', 'here')
  await sleep(100)
  t.equal(reads(), 2)
})

t.test('finds a type that another process created, one second after not finding it', async t => {
  const types = await opened()
  await declareTypes(db, { calls: { limit: 10 } })
  await t.rejects(types.get('calls', 'here'), UNKNOWN)
  later(t, 1_001)
  t.equal(await limitOf(types), 10)
})

t.test('find(), which operators use, sees a type that another process created at once', async t => {
  const types = await opened()
  await t.rejects(types.find('calls', 'here'), UNKNOWN)
  await declareTypes(db, { calls: { limit: 10 } })
  t.match(await types.find('calls', 'here'), { key: 'calls' })
})

t.test('reads at most once a second, however many keys are guessed', async t => {
  const { db: on, reads } = counted()
  const types = await opened(on)
  const guess = (i: number) => t.rejects(types.get(`guess_${i}`, 'here'), UNKNOWN)
  for (let i = 0; i < 20; i++) await guess(i)
  t.equal(reads(), 1)
  later(t, 2_000)
  for (let i = 0; i < 20; i++) await guess(i)
  t.equal(reads(), 2)
  later(t, 4_000)
  await Promise.all(Array.from({ length: 20 }, (_, i) => guess(i)))
  t.equal(reads(), 3, 'even if they are guessed at the same time')
})

t.test('a read that is answered late does not replace a newer one', async t => {
  await declareTypes(db, { calls: { limit: 10 } })
  let answer = () => {}
  let isFirst = true
  /** The first answer is held back until `answer` is called. */
  const query: Database['query'] = async <Row>(...statement: Parameters<Database['query']>) => {
    const rows = await db.query<Row>(...statement)
    if (isFirst) {
      isFirst = false
      await new Promise<void>(resolve => {
        answer = resolve
      })
    }
    return rows
  }
  const types = new TypeCatalogue({ ...db, query }, 900)
  const slow = types.refresh()
  await sleep(50)
  await setType(db, 'calls', { default_limit: 20 }, BY)
  await types.refresh()
  t.equal(await limitOf(types), 20)
  answer()
  await slow
  t.equal(await limitOf(types), 20)
})

t.test('serves what it has read for five seconds while the database fails, and then rejects', async t => {
  const own = await embedded(t)
  await declareTypes(own, { calls: { limit: 10 } })
  const types = await opened(own)
  await own.close()
  later(t, 4_500)
  for (let i = 0; i < 3; i++) {
    t.equal(await limitOf(types), 10)
    await sleep(20)
  }
  await t.rejects(types.get('nothing', 'here'), { code: 'FST_QUOTA_STORE' })
  later(t, 5_001)
  await t.rejects(types.get('calls', 'here'), { code: 'FST_QUOTA_STORE' })
})
