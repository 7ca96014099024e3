import t from 'tap'
import type { ReserveCharges } from '../../src/index.ts'
import { figures, meters, NO_AMOUNTS, rowsOf, tally } from '../fixtures/meter.ts'
import { logsOf, newUser } from '../fixtures/metered.ts'

const { onEach } = await meters(t)

onEach('holds amounts, which are no longer available and not yet charged', async (t, { quota, db }) => {
  const user = newUser()
  const reservation = await quota.reserve(user, { type: 'calls', amount: 4 })
  t.match(reservation.id, /^[0-9a-f-]{36}$/)
  t.ok(reservation.expiresAt instanceof Date && reservation.expiresAt.getTime() > Date.now())
  t.strictSame(await tally(quota, user), [0, 4, 6])
  t.match(await rowsOf(db, user), { quota_reservations: 1 })
  await t.rejects(quota.consume(user, 'calls', 7), { code: 'FST_QUOTA_EXCEEDED' })
})

onEach('accepts a type, a type with an amount, and several of either', async (t, { quota }) => {
  const forms: [ReserveCharges, number, number][] = [
    ['calls', 1, 0],
    [{ type: 'calls' }, 1, 0],
    [{ type: 'calls', amount: 0 }, 0, 0],
    [['calls', 'tokens'], 1, 1],
    [['calls', { type: 'tokens', amount: 50 }], 1, 50]
  ]
  for (const [charges, calls, tokens] of forms) {
    const user = newUser()
    await quota.reserve(user, charges)
    const standing = [await tally(quota, user), await tally(quota, user, 'tokens')].map(([, reserved]) => reserved)
    t.strictSame(standing, [calls, tokens], JSON.stringify(charges))
  }
})

onEach('holds all or nothing, and names every type that is exceeded', async (t, { quota, db }) => {
  const user = newUser()
  const error = await quota
    .reserve(user, [
      { type: 'tokens', amount: 1001 },
      { type: 'free', amount: 5 },
      { type: 'calls', amount: 11 }
    ])
    .catch(error => error)
  t.match(error, { code: 'FST_QUOTA_EXCEEDED', statusCode: 402 })
  t.match(error.violations, [
    { type: 'tokens', required: 1001, remaining: 1000 },
    { type: 'calls', required: 11, remaining: 10 }
  ])
  for (const { type, used, reserved } of await quota.all(user)) t.strictSame([used, reserved], [0, 0], type)
  t.notMatch(await rowsOf(db, user), { quota_reservations: Number })
})

onEach('holds nothing if one of the types is unknown', async (t, { quota, db }) => {
  const user = newUser()
  await t.rejects(quota.reserve(user, ['calls', 'nothing']), { code: 'FST_QUOTA_UNKNOWN_TYPE', statusCode: 500 })
  t.strictSame(await rowsOf(db, user), {})
})

onEach('refuses empty, repeated and malformed charges, and invalid amounts', async (t, { quota, db }) => {
  const user = newUser()
  const refused: [string, unknown][] = [
    ['FST_QUOTA_INVALID_CALL', []],
    ['FST_QUOTA_INVALID_CALL', ['calls', 'calls']],
    ['FST_QUOTA_INVALID_CALL', ['calls', { type: 'calls', amount: 2 }]],
    ['FST_QUOTA_INVALID_CALL', null],
    ['FST_QUOTA_INVALID_CALL', [null]],
    ['FST_QUOTA_INVALID_CALL', 5],
    ...NO_AMOUNTS.map((amount): [string, unknown] => ['FST_QUOTA_INVALID_AMOUNT', { type: 'calls', amount }])
  ]
  for (const [code, charges] of refused) await t.rejects(quota.reserve(user, charges as 'calls'), { code })
  t.strictSame(await rowsOf(db, user), {})
})

onEach(
  'commit charges what was held, with one log row per type, and returns the balances',
  async (t, { quota, db }) => {
    const user = newUser()
    const options = { endpoint: 'job', metadata: { a: 1, b: 1 } }
    const reservation = await quota.reserve(user, ['calls', { type: 'tokens', amount: 50 }], options)
    const balances = await reservation.commit({ metadata: { b: 2 } })
    t.strictSame(
      Object.entries(balances).map(([type, balance]) => [type, ...figures(balance)]),
      [
        ['calls', 1, 0, 9],
        ['tokens', 50, 0, 950]
      ]
    )
    const logs = (await logsOf(db, user)).sort((a, b) => a.amount - b.amount)
    const common = { endpoint: 'job', metadata: { a: 1, b: 2 } }
    t.strictSame(logs, [
      { type: 'calls', amount: 1, ...common },
      { type: 'tokens', amount: 50, ...common }
    ])
    const [row] = await db.query('SELECT 1 FROM usage_logs WHERE user_id = $1 AND id = $2::text::uuid', [
      user,
      reservation.id
    ])
    t.ok(row, 'its id is that of its first log row')
  }
)

onEach('commit charges a smaller amount if given, and gives the rest back', async (t, { quota }) => {
  const user = newUser()
  const reservation = await quota.reserve(user, [
    { type: 'calls', amount: 8 },
    { type: 'tokens', amount: 50 }
  ])
  const balances = await reservation.commit({ amounts: { calls: 0 } })
  t.strictSame(
    [figures(balances.calls!), figures(balances.tokens!)],
    [
      [0, 0, 10],
      [50, 0, 950]
    ]
  )
})

onEach(
  'commit charges more than was held if asked to, even past the limit, and the log row says so',
  async (t, { quota, db }) => {
    const user = newUser()
    const reservation = await quota.reserve(user, { type: 'calls', amount: 5 })
    const { calls } = await reservation.commit({ amounts: { calls: 12 }, metadata: { over_reservation: 0 } })
    t.strictSame(figures(calls!), [12, 0, 0])
    t.strictSame(await logsOf(db, user), [
      { type: 'calls', amount: 12, endpoint: null, metadata: { over_reservation: 7 } }
    ])
    await t.rejects(quota.consume(user, 'calls', 1), { code: 'FST_QUOTA_EXCEEDED' })
  }
)
