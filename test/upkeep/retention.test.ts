import t from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { type RetentionOptions, readRetention, retain } from '../../src/upkeep/retention.ts'
import { hold } from '../fixtures/charges.ts'
import { embedded } from '../fixtures/database.ts'
import { empty } from '../fixtures/empty.ts'

const db = await embedded(t)
t.beforeEach(() => empty(db))

const countOf = async (table: string) =>
  (await db.query<{ n: number }>(`SELECT count(*)::int AS n FROM ${table}`))[0]!.n

/** Logs this many rows, a second apart, for a user who no longer exists. */
const log = (rows: number, daysAgo: number) =>
  db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
     SELECT 'gone', id, 1, now() - $2::float8 * interval '1 day' + n * interval '1 second' FROM generate_series(1, $1::int) n CROSS JOIN quota_types`,
    [rows, daysAgo]
  )

t.test('accepts a whole number of days from 1 to 36 500, and nothing else', async t => {
  for (const days of [1, 36_500, undefined]) t.strictSame(readRetention({ usageLogs: days }), { usageLogs: days })
  for (const days of [0, -1, 1.5, 36_501, Number.NaN, '30', null])
    for (const field of ['usageLogs', 'denials'])
      t.throws(
        () => readRetention({ [field]: days } as RetentionOptions),
        { code: 'FST_QUOTA_INVALID_OPTION', message: new RegExp(`retention\\.${field} `) },
        `${field}: ${days}`
      )
})

t.test(
  'deletes all log rows that are too old, and denials by their own number of days, even more than a batch',
  async t => {
    await declareTypes(db, { calls: { limit: 10 } })
    await hold(db, 'alice', { calls: 1 })
    for (const [hours, daysAgo] of [
      [1, 40],
      [1_001, 100]
    ])
      await db.query(
        `INSERT INTO quota_denials
         SELECT 'alice', id, date_trunc('hour', now()) - $2::int * interval '1 day' - n * interval '1 hour', 1
           FROM quota_types CROSS JOIN generate_series(1, $1::int) n`,
        [hours!, daysAgo!]
      )
    await log(1_001, 31)
    await log(5, 29)
    await retain(db, { usageLogs: 30, denials: 90 }, new AbortController().signal)
    t.equal(await countOf('usage_logs'), 5)
    t.equal(await countOf('quota_denials'), 1)
    await retain(db, { denials: 30 }, new AbortController().signal)
    t.equal(await countOf('usage_logs'), 5)
    t.equal(await countOf('quota_denials'), 0)
    await retain(db, {}, new AbortController().signal)
    t.equal(await countOf('usage_logs'), 5)
  }
)

t.test("a user whose period cannot be closed causes an error, but other users' logs are still deleted", async t => {
  await declareTypes(db, { calls: { limit: 10, period: 'day' } })
  const at = new Date(Date.now() - 50 * 86_400_000)
  await hold(db, 'alice', { calls: 1 }, { at })
  await db.query(
    "INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at) SELECT 'alice', id, 1, $1::timestamptz FROM quota_types",
    [at.toISOString()]
  )
  await db.query("UPDATE quota_users SET time_zone = 'Nowhere/At_all'")
  await log(1_001, 40)
  await t.rejects(retain(db, { usageLogs: 30 }, new AbortController().signal))
  t.strictSame(await db.query('SELECT user_id FROM usage_logs'), [{ user_id: 'alice' }])
})

t.test('stops after the current batch when the application closes', async t => {
  await declareTypes(db, { calls: { limit: 10 } })
  await log(1_001, 40)
  await hold(db, 'alice', { calls: 1 })
  await db.query(
    "INSERT INTO quota_denials SELECT 'alice', id, date_trunc('hour', now()) - interval '40 days', 1 FROM quota_types"
  )
  await retain(db, { usageLogs: 30, denials: 30 }, AbortSignal.abort())
  t.equal(await countOf('usage_logs'), 1)
  t.equal(await countOf('quota_denials'), 1)
})
