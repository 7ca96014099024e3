import t from 'tap'
import { setType } from '../../src/store/catalogue/set-type.ts'
import { operated } from '../fixtures/admin.ts'
import { BY } from '../fixtures/charges.ts'
import { violations } from '../fixtures/invariants.ts'
import { figures, rowsOf, tally } from '../fixtures/meter.ts'
import { ask, logsOf, newUser } from '../fixtures/metered.ts'

const { app, db, call } = await operated(t, {}, app => {
  app.get('/calls', { config: { quota: { type: 'calls', amount: 3 } } }, async request => {
    request.quota.setAmount('calls', 4)
    return request.quota.charges.map(({ type }) => type)
  })
  app.get('/both', { config: { quota: ['calls', { type: 'tokens', amount: 5 }] } }, async request => {
    request.quota.setAmount('calls', 4)
    return request.quota.charges.map(({ type }) => type)
  })
})
const { quota } = app

async function set(type: string, is_active: boolean): Promise<void> {
  const { statusCode, body } = await call(`/quota-types/${type}`, { method: 'PUT', body: { is_active } })
  if (statusCode !== 200) throw new Error(body)
}

/** Runs `work` while the type is switched off. */
async function whileOff<T>(type: string, work: () => Promise<T>): Promise<T> {
  await set(type, false)
  try {
    return await work()
  } finally {
    await set(type, true)
  }
}

async function used(): Promise<string> {
  const user = newUser()
  await quota.consume(user, 'calls', 9)
  await quota.consume(user, 'storage', 60)
  return user
}

t.test(
  'consume charges nothing of a switched-off type, whatever the amount, and returns the current balance',
  async t => {
    const user = await used()
    await whileOff('calls', async () => {
      for (const amount of [0, 1, 100, Number.MAX_SAFE_INTEGER]) {
        const balance = await quota.consume(user, 'calls', amount, { idempotencyKey: 'once', metadata: { a: 1 } })
        t.strictSame([balance.type, balance.limit, ...figures(balance)], ['calls', 10, 9, 0, 1])
      }
    })
    t.strictSame(await tally(quota, user), [9, 0, 1])
    t.equal((await logsOf(db, user)).length, 2)
    t.strictSame(figures(await quota.consume(user, 'calls', 1, { idempotencyKey: 'once' })), [10, 0, 0])
    await t.rejects(
      quota.consume(user, 'calls', 1),
      { code: 'FST_QUOTA_EXCEEDED' },
      'it is charged again once it is on'
    )
  }
)

t.test('credit does not lower a switched-off level, and returns the current balance', async t => {
  const user = await used()
  const credit = () => quota.credit(user, 'storage', 20, { idempotencyKey: 'once' })
  await whileOff('storage', async () => t.strictSame(figures(await credit()), [60, 0, 40]))
  t.strictSame(await tally(quota, user, 'storage'), [60, 0, 40])
  t.strictSame(figures(await credit()), [40, 0, 60])
})

t.test(
  'a key used before the type was switched off returns its first answer, and is refused for another charge',
  async t => {
    const user = await used()
    const charge = (amount: number) => quota.consume(user, 'calls', amount, { idempotencyKey: 'charge' })
    const credit = (amount: number) => quota.credit(user, 'storage', amount, { idempotencyKey: 'credit' })
    const [charged, credited] = [await charge(1), await credit(20)]
    await quota.reset(user)
    await quota.setUsage(user, 'storage', 5)
    for (const [type, call, first] of [
      ['calls', charge, charged],
      ['storage', credit, credited]
    ] as const)
      await whileOff(type, async () => {
        t.strictSame(await call(first === charged ? 1 : 20), first)
        await t.rejects(call(2), { code: 'FST_QUOTA_IDEMPOTENCY_MISMATCH' })
      })
  }
)

t.test('setUsage sets a switched-off level all the same, even for an unknown user', async t => {
  const [known, fresh] = [await used(), newUser()]
  await whileOff('storage', async () => {
    t.strictSame(figures(await quota.setUsage(known, 'storage', 25)), [25, 0, 75])
    t.strictSame(figures(await quota.setUsage(fresh, 'storage', 7)), [7, 0, 93])
    await t.rejects(quota.setUsage(known, 'calls', 1), { code: 'FST_QUOTA_KIND_MISMATCH' })
  })
  t.strictSame(await tally(quota, known, 'storage'), [25, 0, 75])
  t.strictSame(await tally(quota, fresh, 'storage'), [7, 0, 93])
  t.match(await logsOf(db, fresh), [{ type: 'storage', amount: 7 }])
})

t.test('check allows any amount of a switched-off type, and shows the current balance', async t => {
  const user = await used()
  await whileOff('calls', async () => {
    t.match(await quota.check(user, 'calls', 100), { allowed: true, limit: 10, used: 9, remaining: 1 })
    t.equal((await quota.check(newUser(), 'calls', 100)).allowed, true)
    t.equal(await quota.remaining(user, 'calls'), 1)
    t.match(await quota.all(user), [{ type: 'calls', used: 9 }, {}, {}, {}], 'a user who has it still sees it')
    t.equal((await quota.all(newUser())).length, 3)
  })
  t.match(await quota.check(user, 'calls', 2), { allowed: false })
})

t.test(
  'reserve holds nothing of a switched-off type, and commit accepts an amount of it but charges nothing',
  async t => {
    const user = await used()
    await whileOff('calls', async () => {
      const alone = await quota.reserve(user, { type: 'calls', amount: 50 })
      t.match(alone.id, /^[0-9a-f-]{36}$/)
      t.ok(alone.expiresAt instanceof Date)
      t.strictSame(await tally(quota, user), [9, 0, 1])
      t.strictSame(await alone.commit({ amounts: { calls: 70 } }), {})
      t.strictSame(await alone.commit(), {}, 'and a second time')
      await t.rejects(alone.release(), { code: 'FST_QUOTA_SETTLED' })
      await (await quota.reserve(user, 'calls')).release()
      const other = await quota.reserve(user, 'calls')
      await t.rejects(other.commit({ amounts: { tokens: 1 } }), { code: 'FST_QUOTA_NOT_RESERVED' })
    })
    t.strictSame(await tally(quota, user), [9, 0, 1])
    t.equal((await logsOf(db, user)).length, 2)
  }
)

t.test('reserve holds the types beside a switched-off one, and only they are charged', async t => {
  const user = await used()
  await whileOff('calls', async () => {
    const held = await quota.reserve(user, [{ type: 'calls', amount: 50 }, 'tokens'])
    t.strictSame(await tally(quota, user, 'tokens'), [0, 1, 999])
    t.strictSame(Object.keys(await held.commit({ amounts: { calls: 70, tokens: 2 } })), ['tokens'])
    await t.rejects(quota.reserve(user, ['calls', 'calls']), { code: 'FST_QUOTA_INVALID_CALL' })
    await t.rejects(quota.reserve(user, ['calls', { type: 'tokens', amount: 1001 }]), {
      code: 'FST_QUOTA_EXCEEDED',
      violations: [{ type: 'tokens' }]
    })
  })
  t.strictSame(await tally(quota, user, 'tokens'), [2, 0, 998])
  t.strictSame(await tally(quota, user), [9, 0, 1])
})

t.test('what was reserved before the type was switched off is charged or given back as usual', async t => {
  const user = newUser()
  const kept = await quota.reserve(user, { type: 'calls', amount: 3 })
  const given = await quota.reserve(user, { type: 'calls', amount: 2 })
  await whileOff('calls', async () => {
    t.strictSame(figures((await kept.commit({ amounts: { calls: 4 } })).calls!), [4, 2, 4])
    await given.release()
  })
  t.strictSame(await tally(quota, user), [4, 0, 6])
})

t.test('a reservation made while the type is off charges nothing of it after it is switched on', async t => {
  const user = newUser()
  const held = await whileOff('calls', () => quota.reserve(user, ['calls', 'tokens']))
  t.strictSame(Object.keys(await held.commit({ amounts: { calls: 3 } })), ['tokens'])
  t.strictSame(await tally(quota, user), [0, 0, 10])
})

t.test('invalid amounts, users and types are refused even while the type is off', async t => {
  const user = newUser()
  await whileOff('calls', async () => {
    await t.rejects(quota.consume(user, 'calls', -1), { code: 'FST_QUOTA_INVALID_AMOUNT' })
    await t.rejects(quota.consume('', 'calls', 1), { code: 'FST_QUOTA_INVALID_USER' })
    await t.rejects(quota.check('', 'calls', 1), { code: 'FST_QUOTA_INVALID_USER' })
    await t.rejects(quota.check(user, 'calls', 1.5), { code: 'FST_QUOTA_INVALID_AMOUNT' })
    await t.rejects(quota.reserve(user, { type: 'calls', amount: 1.5 }), { code: 'FST_QUOTA_INVALID_AMOUNT' })
    await t.rejects(quota.credit(user, 'calls', 1), { code: 'FST_QUOTA_KIND_MISMATCH' })
    await t.rejects(quota.reserve(user, ['calls', 'nothing']), { code: 'FST_QUOTA_UNKNOWN_TYPE' })
  })
})

t.test('a switched-off type creates no user, and users created meanwhile do not get it', async t => {
  const [quiet, busy] = [newUser(), newUser()]
  await whileOff('calls', async () => {
    t.strictSame(figures(await quota.consume(quiet, 'calls', 5)), [0, 0, 10])
    t.strictSame(await (await quota.reserve(quiet, 'calls')).commit(), {})
    t.strictSame(await rowsOf(db, quiet), {})
    await quota.consume(busy, 'tokens', 1)
    t.strictSame(await rowsOf(db, busy), { quota_users: 1, quota_limits: 3, usage_logs: 1 })
    t.strictSame((await call(`/users/${busy}`)).json().total_quotas, 3)
    t.match(await quota.reset(busy), { quotasReset: { length: 2 } })
  })
  t.strictSame(figures(await quota.consume(busy, 'calls', 4)), [4, 0, 6], 'they get it once it is on again')
})

t.test('a limit adjusted while the type is off is kept, even for a user without a counter of it', async t => {
  const [known, fresh] = [await used(), newUser()]
  await whileOff('calls', async () => {
    await quota.consume(fresh, 'tokens', 1)
    t.match(await quota.adjust(known, 'calls', 50), { limit: 50, used: 9, remaining: 41 })
    t.match(await quota.adjust(fresh, 'calls', 50), { limit: 50, used: 0, remaining: 50 })
  })
  t.strictSame(await tally(quota, known), [9, 0, 41])
  t.strictSame(await tally(quota, fresh), [0, 0, 50])
})

t.test('a metered route does not mention or charge a switched-off type, and charges the others', async t => {
  const user = await used()
  await whileOff('calls', async () => {
    for (let i = 0; i < 5; i++) {
      const reply = await ask(app, user, '/calls')
      t.strictSame([reply.statusCode, reply.json()], [200, []])
      t.notMatch(Object.keys(reply.headers).join(), /quota|ratelimit/i)
    }
    const both = await ask(app, user, '/both')
    t.strictSame([both.statusCode, both.json()], [200, ['tokens']])
    t.match(both.headers, { 'x-quota-type': 'tokens', 'x-quota-cost': 5 })
    t.notMatch(JSON.stringify(both.headers), 'calls')
    t.equal((await ask(app, '', '/calls')).statusCode, 401, 'and still requires an identity')
  })
  t.strictSame(await tally(quota, user), [9, 0, 1])
  t.strictSame(await tally(quota, user, 'tokens'), [5, 0, 995])
  const denied = await ask(app, user, '/calls')
  t.equal(denied.statusCode, 402, 'it is charged again once it is on')
  t.match(denied.headers, { 'x-quota-type': 'calls', 'x-quota-cost': 0 })
})

t.test('a metered route charges nothing of a type while it is off, and charges it again once it is on', async t => {
  const user = newUser()
  t.equal((await ask(app, user, '/calls')).statusCode, 200)
  t.strictSame(await tally(quota, user), [4, 0, 6])
  await whileOff('calls', async () => void (await ask(app, user, '/calls')))
  t.strictSame(await tally(quota, user), [4, 0, 6])
  t.equal((await ask(app, user, '/calls')).statusCode, 200)
  t.strictSame(await tally(quota, user), [8, 0, 2])
})

t.test('a type that another process switched on is charged again after five seconds', async t => {
  const user = await used()
  await set('calls', false)
  await setType(db, 'calls', { is_active: true }, BY)
  const now = performance.now.bind(performance)
  t.intercept(performance, 'now', { value: () => now() + 5_001 })
  t.equal((await ask(app, user, '/calls')).statusCode, 402)
})

t.test('with every type switched off, everything is let through and no user is created', async t => {
  const user = newUser()
  const types = ['calls', 'free', 'storage', 'tokens']
  for (const type of types) await set(type, false)
  t.equal((await ask(app, user, '/both')).statusCode, 200)
  t.strictSame(figures(await quota.consume(user, 'tokens', 5)), [0, 0, 1000])
  t.strictSame(await (await quota.reserve(user, types as ['calls'])).commit({ amounts: { calls: 3, free: 1 } }), {})
  t.strictSame(await quota.all(user), [])
  t.strictSame(await rowsOf(db, user), {})
  for (const type of types) await set(type, true)
  t.equal((await ask(app, user, '/both')).statusCode, 200)
  t.strictSame(await tally(quota, user), [4, 0, 6])
})

t.test('after all these tests, no invariant is violated', async t => {
  t.strictSame(await violations(db), [])
})
