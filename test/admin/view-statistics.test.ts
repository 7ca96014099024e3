import t from 'tap'
import { isAnswer, isProblem, operated } from '../fixtures/admin.ts'
import { until } from '../fixtures/ledger.ts'
import { newUser } from '../fixtures/metered.ts'

const quotas = {
  calls: { limit: 1000 },
  sparse: { limit: 5 },
  storage: { kind: 'level', limit: 100, unit: 'byte' },
  unused: { limit: 1 }
} as const
const { app, db, call } = await operated(t, { quotas })
const statistics = (type: string, query = '') => call(`/statistics/${type}${query}`)

t.test('200: shows what was charged and denied, and the series adds up to the totals', async t => {
  const [alice, bob] = [newUser(), newUser()]
  for (const amount of [1, 2, 4]) await app.quota.consume(alice, 'sparse', amount).catch(() => {})
  await app.quota.consume(bob, 'sparse', 5)
  await app.quota.reserve(bob, 'sparse').catch(() => {})
  const reply = await statistics('sparse')
  isAnswer(t, reply)
  const body = reply.json()
  t.match(body, {
    quota_type: 'sparse',
    days: 30,
    interval: 'day',
    time_zone: 'UTC',
    total_usage: 8,
    total_calls: 3,
    unique_users: 2,
    avg_usage_per_call: 2.67,
    peak_usage_date: /^\d{4}-\d\d-\d\d$/,
    denials: 2,
    top_users: [
      { user_id: bob, usage: 5, calls: 1 },
      { user_id: alice, usage: 3, calls: 2 }
    ]
  })
  t.equal(body.series.length, 30)
  const sum = (field: string) => body.series.reduce((n: number, piece: Record<string, number>) => n + piece[field]!, 0)
  t.strictSame([sum('usage'), sum('calls'), sum('denials')], [8, 3, 2])
  t.equal(body.start, body.series[0].start)
  t.equal(Date.parse(body.end) - Date.parse(body.series.at(-1).start), 86_400_000)
})

t.test('200: by the hour, in a given time zone, and for 1 to 365 days', async t => {
  const hours = (await statistics('calls', '?days=2&interval=hour&time_zone=Asia%2FKolkata')).json()
  t.ok([48].includes(hours.series.length))
  t.match(hours.start, /T18:30:00\.000Z$/)
  t.equal(hours.time_zone, 'Asia/Kolkata')
  t.equal((await statistics('calls', '?days=365')).json().series.length, 365)
  t.equal((await statistics('calls', '?days=1')).json().series.length, 1)
})

t.test('200: the log is then added up in the time zone that was asked for', async t => {
  const { db, call } = await operated(t, { quotas })
  const zones = async () =>
    (await db.query<{ zone: string }>('SELECT DISTINCT time_zone AS zone FROM quota_rollups')).map(({ zone }) => zone)
  await db.query(`
    INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
    SELECT 'gone', id, 1, now() - interval '2 days' FROM generate_series(1, 1000) n CROSS JOIN quota_types`)
  t.strictSame(await zones(), [])
  t.equal((await call('/statistics/calls?days=9&time_zone=Asia%2FTokyo')).statusCode, 200)
  await until('it is added up', 20_000, async () => (await zones()).includes('Asia/Tokyo'))
})

t.test('200: zeros for a type that nobody has used', async t => {
  const { top_users, ...figures } = (await statistics('unused')).json()
  t.strictSame(top_users, [])
  t.match(figures, {
    total_usage: 0,
    total_calls: 0,
    unique_users: 0,
    avg_usage_per_call: 0,
    peak_usage_date: null,
    denials: 0
  })
})

t.test('200: the peak is the day with the highest usage, and the earliest of equal ones', async t => {
  const user = newUser()
  await app.quota.consume(user, 'calls', 1)
  const move = (days: number) =>
    db.query(
      `UPDATE usage_logs SET created_at = created_at - $2::int * interval '1 day' WHERE id = (
         SELECT id FROM usage_logs WHERE user_id = $1 ORDER BY created_at DESC, id DESC LIMIT 1)`,
      [user, days]
    )
  await move(3)
  await app.quota.consume(user, 'calls', 5)
  await move(2)
  await app.quota.consume(user, 'calls', 5)
  const body = (await statistics('calls', '?days=10')).json()
  const used = body.series.map(({ usage }: { usage: number }) => usage).slice(-4)
  t.strictSame(used, [1, 5, 0, 5])
  t.equal(body.peak_usage_date, body.series.at(-3).start.slice(0, 10))
  const hours = (await statistics('calls', '?days=10&interval=hour')).json()
  t.equal(hours.peak_usage_date, body.peak_usage_date, 'also if the series is by hour')
})

t.test('400: names the invalid field', async t => {
  const wrong: [field: string, value: string][] = [
    ...['0', '366', '-1', '1.5', 'abc', '', ' 7', '1e2'].map((v): [string, string] => ['days', v]),
    ...['week', '', 'HOUR', 'day,hour'].map((v): [string, string] => ['interval', v]),
    ...['Mars/Olympus', '', '+01:00', 'utc; DROP TABLE'].map((v): [string, string] => ['time_zone', v]),
    ['day', '7']
  ]
  for (const [field, value] of wrong) {
    const reply = await statistics('calls', `?${new URLSearchParams({ [field]: value })}`)
    t.equal(reply.statusCode, 400, `${field}=${value}`)
    t.match(reply.json(), { field, detail: /./ })
  }
  isProblem(t, await statistics('calls', '?days=1&days=2'), 400, { field: 'days' })
})

t.test('403: without the token', async t => {
  isProblem(t, await call('/statistics/calls', { token: null }), 403)
})

t.test('200: answers even if denials cannot be saved at the moment, and counts them later', async t => {
  const user = newUser()
  await db.query('ALTER TABLE quota_denials ADD CONSTRAINT refused CHECK (denials = 0) NOT VALID')
  await t.rejects(app.quota.consume(user, 'unused', 2), { code: 'FST_QUOTA_EXCEEDED' })
  t.match((await statistics('unused')).json(), { denials: 0 })
  await db.query('ALTER TABLE quota_denials DROP CONSTRAINT refused')
  t.match((await statistics('unused')).json(), { denials: 1 }, 'the denial is counted later')
})

t.test('404: a quota type that nobody declared', async t => {
  for (const key of ['nothing', 'CALLS', 'a%2Fb', "'%3B%20--", '__proto__'])
    isProblem(t, await statistics(key), 404, { code: 'FST_QUOTA_UNKNOWN_TYPE' }, key)
})

t.test('503: the database does not answer', async t => {
  await db.close()
  isProblem(t, await statistics('calls'), 503, { code: 'FST_QUOTA_STORE' })
})
