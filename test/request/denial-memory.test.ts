import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { PGlite } from '@electric-sql/pglite'
import { drizzle } from 'drizzle-orm/pglite'
import t, { type Test } from 'tap'
import type { QuotaOptions } from '../../src/index.ts'
import { DenialMemory } from '../../src/request/denial-memory.ts'
import { connect, open } from '../../src/store/connection/connect.ts'
import { migrate } from '../../src/store/migration/migrate.ts'
import { TOKEN } from '../fixtures/admin.ts'
import { METER_QUOTAS } from '../fixtures/meter.ts'
import { ask, metered, newUser } from '../fixtures/metered.ts'

// The application's own Drizzle database, which keeps the statements it is sent.
let asked: string[] = []
const client = await PGlite.create('memory://')
t.teardown(() => client.close())
const own = drizzle(client, { logger: { logQuery: text => void asked.push(text) } })
await migrate(await open(own))
const db = await connect(own)

async function serve(t: Test, options: QuotaOptions = {}) {
  const app = await metered(
    t,
    db,
    app => {
      app.get('/one', { config: { quota: 'calls' } }, async () => 'x')
      app.get('/all', { config: { quota: { type: 'calls', amount: 10 } } }, async () => 'x')
      app.get('/fails', { config: { quota: { type: 'calls', amount: 10 } } }, async (_request, reply) =>
        reply.code(500).send('x')
      )
      app.get('/store', { config: { quota: { type: 'storage', amount: 60 } } }, async () => 'x')
      app.get('/later', { config: { quota: { type: 'calls', denial: { statusCode: 429 } } } }, async () => 'x')
      app.get('/both', { config: { quota: ['calls', 'tokens'] } }, async () => 'x')
      app.get('/less', { config: { quota: { type: 'tokens', amount: 10 } } }, async request => {
        request.quota.setAmount('tokens', 4)
        return 'x'
      })
    },
    { quotas: METER_QUOTAS, admin: { token: TOKEN }, ...options }
  )
  const status = async (user: string, url = '/one') => (await ask(app, user, url)).statusCode
  const operate = (method: 'POST' | 'PUT' | 'DELETE', url: string) =>
    app.inject({ method, url: `/admin/quotas${url}`, headers: { 'x-admin-token': TOKEN } })
  return { app, status, operate }
}

t.test('a user who is denied again and again costs the database next to no statements', async t => {
  const { app, status } = await serve(t)
  const user = newUser()
  t.equal(await status(user, '/all'), 200)
  const first = await ask(app, user, '/one')
  asked = []
  for (let i = 0; i < 200; i++) {
    const reply = await ask(app, user, '/one')
    t.equal(reply.statusCode, 402)
    t.strictSame(reply.json(), first.json())
    t.equal(reply.headers['x-quota-remaining'], '0')
    t.match(reply.headers['retry-after'], /^[1-9][0-9]*$/)
  }
  // Others come once in a while, however many are refused.
  const holding = asked.filter(text => text.includes('UPDATE quota_limits')).length
  t.ok(holding < 20, `${holding} statements for 200 refusals`)
  t.equal(app.quota.counts().denied, 201, 'every denial is counted')
})

t.test('a remembered denial answers only the same user, and only requests of the same cost', async t => {
  const { status } = await serve(t)
  const user = newUser()
  for (let i = 0; i < 9; i++) t.equal(await status(user), 200)
  t.equal(await status(user, '/all'), 402)
  t.equal(await status(user), 200)
  t.equal(await status(newUser(), '/all'), 200)
  t.equal(await status(user, '/both'), 402)
})

t.test('each route denies with its own status, even what another route denied a moment ago', async t => {
  const { app, status } = await serve(t)
  const user = newUser()
  t.equal(await status(user, '/all'), 200)
  for (const [url, refused] of [
    ['/one', 402],
    ['/one', 402],
    ['/later', 429],
    ['/one', 402],
    ['/later', 429]
  ] as const) {
    const reply = await ask(app, user, url)
    t.equal(reply.statusCode, refused)
    t.match(reply.json(), { status: refused, quota_type: 'calls', remaining: 0 })
  }
})

t.test('a denial of several charges shows the current balance of those that would fit', async t => {
  const { app, status } = await serve(t)
  const user = newUser()
  t.equal(await status(user, '/all'), 200)
  for (const left of [1000, 995, 990]) {
    const reply = await ask(app, user, '/both')
    t.equal(reply.statusCode, 402)
    t.match(reply.headers.ratelimit, new RegExp(`"tokens";r=${left};`))
    await app.quota.consume(user, 'tokens', 5)
  }
})

t.test(
  'a denied user is admitted at once after a reset, an adjust, a credit, a setUsage or a deletion of the user',
  async t => {
    const { app, status, operate } = await serve(t)
    const changes: Record<string, (user: string) => Promise<unknown>> = {
      'POST reset': user => operate('POST', `/users/${user}/reset?quota_type=calls`),
      'PUT adjust': user => operate('PUT', `/users/${user}/adjust?quota_type=calls&new_limit=-1`),
      DELETE: user => operate('DELETE', `/users/${user}`),
      'app.quota.reset': user => app.quota.reset(user, 'calls'),
      'app.quota.adjust': user => app.quota.adjust(user, 'calls', 20)
    }
    for (const [name, change] of Object.entries(changes)) {
      const user = newUser()
      t.strictSame([await status(user, '/all'), await status(user), await status(user)], [200, 402, 402])
      await change(user)
      t.equal(await status(user), 200, name)
    }
    for (const change of [
      (user: string) => app.quota.credit(user, 'storage', 60),
      (user: string) => app.quota.setUsage(user, 'storage', 0)
    ]) {
      const user = newUser()
      t.strictSame([await status(user, '/store'), await status(user, '/store')], [200, 402])
      await change(user)
      t.equal(await status(user, '/store'), 200)
    }
  }
)

t.test('a denied user is admitted at once after the endless period of the type is ended', async t => {
  const app = await metered(
    t,
    db,
    app => {
      app.get('/ever', { config: { quota: { type: 'ever', amount: 10 } } }, async () => 'x')
    },
    { quotas: { ever: { limit: 10, period: 'never' } }, admin: { token: TOKEN } }
  )
  const user = newUser()
  const status = async () => (await ask(app, user, '/ever')).statusCode
  t.strictSame([await status(), await status(), await status()], [200, 402, 402])
  const headers = { 'x-admin-token': TOKEN }
  await app.inject({ method: 'PUT', url: '/admin/quotas/quota-types/ever', headers, body: { period: 'month' } })
  // Its end is rounded up to a whole millisecond.
  await sleep(5)
  t.equal(await status(), 200)
})

t.test('what running work gives back is available at once, even to a user who was just denied', async t => {
  const { app, status } = await serve(t)
  const user = newUser()
  const held = await app.quota.reserve(user, { type: 'calls', amount: 10 })
  t.strictSame([await status(user), await status(user)], [402, 402])
  await held.release()
  t.equal(await status(user), 200)
  const elsewhere = newUser()
  await app.quota.reserve(elsewhere, { type: 'calls', amount: 10 })
  t.strictSame([await status(elsewhere), await status(elsewhere)], [402, 402])
  // As another process does, of which this one hears nothing.
  await db.query('UPDATE quota_limits SET used_amount = 0 WHERE user_id = $1', [elsewhere])
  await db.query('DELETE FROM quota_reservations WHERE user_id = $1', [elsewhere])
  t.equal(await status(elsewhere), 200)
  const other = newUser()
  t.strictSame([await status(other, '/fails'), await status(other, '/all')], [500, 200])
})

for (const [what, give] of Object.entries({
  'an app.quota reservation is released': async ({ app }, user) =>
    await (await app.quota.reserve(user, 'tokens')).release(),
  'an app.quota reservation is committed': async ({ app }, user) =>
    void (await (await app.quota.reserve(user, 'tokens')).commit()),
  'a request is charged less than it reserved': async ({ status }, user) => void (await status(user, '/less'))
} satisfies Record<string, (served: Awaited<ReturnType<typeof serve>>, user: string) => Promise<void>>))
  t.test(`asks the database again for a denied user once ${what}`, async t => {
    const served = await serve(t)
    const user = newUser()
    t.strictSame([await served.status(user, '/all'), await served.status(user)], [200, 402])
    // Behind the application's back.
    await db.query('UPDATE quota_limits SET used_amount = 0 WHERE user_id = $1', [user])
    t.equal(await served.status(user), 402, 'the remembered denial still answers')
    await give(served, user)
    t.equal(await served.status(user), 200)
  })

t.test(
  'of users who go on asking, the database is asked together whether anything has changed, and what has changed counts',
  async t => {
    const { status } = await serve(t)
    const users = [newUser(), newUser(), newUser()] as const
    for (const user of users) t.strictSame([await status(user, '/all'), await status(user)], [200, 402])
    const askAll = async () => {
      await sleep(50)
      return await Promise.all(users.map(user => status(user)))
    }
    asked = []
    while (!asked.some(text => text.includes('unnest'))) t.strictSame(await askAll(), [402, 402, 402])
    // As another process does, of which this one hears nothing.
    await db.query('UPDATE quota_limits SET limit_amount = -1 WHERE user_id = $1', [users[1]])
    while ((await status(users[1])) !== 200) await askAll()
    t.strictSame(await askAll(), [402, 200, 402])
  }
)

t.test('with `distributed`, users who go on asking are not asked about together', async t => {
  const { status } = await serve(t, { distributed: true })
  const users = [newUser(), newUser()] as const
  for (const user of users) t.strictSame([await status(user, '/all'), await status(user)], [200, 402])
  asked = []
  // Each asks by itself once its second is over.
  while (asked.filter(text => text.includes('UPDATE quota_limits')).length < 4) {
    await sleep(50)
    for (const user of users) t.equal(await status(user), 402)
  }
  t.notOk(asked.some(text => text.includes('unnest')))
})

/** What happens between the database's answer to the next statement and its arrival. */
function beforeItArrives(work: () => Promise<unknown>): void {
  const { query } = client
  client.query = async function (this: PGlite, ...given: Parameters<PGlite['query']>) {
    client.query = query
    const answer = await query.apply(client, given)
    await work()
    return answer
  } as PGlite['query']
}

for (const [what, change] of Object.entries({
  'this process has made room before it arrives': ({ app }, user) => app.quota.adjust(user, 'calls', -1),
  'another process made room and a second has passed before it arrives': async (_, user) => {
    await db.query('UPDATE quota_limits SET limit_amount = -1 WHERE user_id = $1', [user])
    await sleep(1_000)
  }
} satisfies Record<string, (served: Awaited<ReturnType<typeof serve>>, user: string) => Promise<unknown>>))
  t.test(`a denial is not remembered if ${what}`, async t => {
    const served = await serve(t)
    const user = newUser()
    t.equal(await served.status(user, '/all'), 200)
    beforeItArrives(() => change(served, user))
    t.equal(await served.status(user), 402)
    t.equal(await served.status(user), 200)
  })

t.test('a reset in another process takes effect within a second', async t => {
  const [one, two] = [await serve(t), await serve(t)]
  const user = newUser()
  t.strictSame([await one.status(user, '/all'), await one.status(user), await two.status(user)], [200, 402, 402])
  await two.operate('POST', `/users/${user}/reset`)
  t.equal(await two.status(user), 200)
  await sleep(1_050)
  t.equal(await one.status(user), 200)
})

const costOf = (amount: number) => [{ typeId: 1, type: 'calls', amount }]
const AT = new Date('2026-03-10T12:00:00.500Z')

/** A denial at 12:00:00.5, in a period that ends `lastsMs` later. */
const denialOf = (lastsMs = 60_000) => {
  const violation = { type: 'calls', limit: 1, used: 1, reserved: 0, remaining: 0, required: 1 }
  const resetsAt = new Date(AT.getTime() + lastsMs)
  const retryAfter = Math.ceil(lastsMs / 1000)
  return {
    admitted: false as const,
    at: AT,
    violations: [{ ...violation, retryAfter, periodStart: AT, resetsAt }],
    balances: []
  }
}

const remember = (
  memory: DenialMemory,
  user: string,
  { amount = 1, changes = memory.changes, lastsMs = 60_000 } = {}
) => memory.remember(user, costOf(amount), denialOf(lastsMs), changes, performance.now())

const BOTH = [...costOf(1), { typeId: 2, type: 'tokens', amount: 1 }]

function rememberBoth(memory: DenialMemory, user: string, reserved = 0) {
  const denial = denialOf()
  const [calls] = denial.violations as [(typeof denial.violations)[number]]
  const both = { ...denial, violations: [calls, { ...calls, type: 'tokens', reserved }] }
  memory.remember(user, BOTH, both, memory.changes, performance.now())
}

t.test('a denial of several charges is not remembered if running work holds part of any of them', async t => {
  for (const [reserved, isRemembered] of [
    [0, true],
    [1, false]
  ] as const) {
    const memory = new DenialMemory()
    rememberBoth(memory, 'alice', reserved)
    t.equal(memory.recall('alice', BOTH) !== undefined, isRemembered)
  }
})

t.test('a denial that the database answered late is not remembered beyond its period', async t => {
  const memory = new DenialMemory()
  const from = (since: number) => memory.remember('alice', costOf(1), denialOf(300), memory.changes, since)
  from(performance.now())
  t.ok(memory.recall('alice', costOf(1)))
  memory.forget('alice')
  from(performance.now() - 400)
  t.equal(memory.recall('alice', costOf(1)), undefined)
})

t.test('a denial is not remembered if its user, or every user, was forgotten after the database was asked', async t => {
  for (const user of ['alice', undefined]) {
    const memory = new DenialMemory()
    const { changes } = memory
    memory.forget(user)
    remember(memory, 'alice', { changes })
    t.equal(memory.recall('alice', costOf(1)), undefined)
  }
})

t.test(
  'a remembered denial is reused within a clock second, then counts Retry-After down, and ends after one second',
  async t => {
    const memory = new DenialMemory()
    const now = performance.now.bind(performance)
    const start = now()
    const at = (ms: number) => t.intercept(performance, 'now', { value: () => start + ms })
    at(0)
    const first = remember(memory, 'alice', { lastsMs: 9_900 })
    at(499)
    t.equal(memory.recall('alice', costOf(1)), first)
    at(950)
    const next = memory.recall('alice', costOf(1))
    t.match(next, { denial: { violations: [{ retryAfter: 9 }] } })
    t.strictSame(next?.denial.at, new Date(AT.getTime() + 950))
    t.equal(memory.recall('alice', costOf(1)), next)
    at(1_000)
    t.equal(memory.recall('alice', costOf(1)), undefined)
  }
)

t.test(
  'forgets the oldest denials of a user, and the users who were denied longest ago, when there are too many',
  async t => {
    const memory = new DenialMemory()
    for (let amount = 1; amount <= 21; amount++) remember(memory, 'hot', { amount })
    t.equal(memory.recall('hot', costOf(1)), undefined)
    t.ok(memory.recall('hot', costOf(21)))
    for (let n = 0; n < 10_000; n++) remember(memory, `user ${n}`)
    t.equal(memory.recall('hot', costOf(21)), undefined)
    remember(memory, 'user 0')
    remember(memory, 'one more')
    t.ok(memory.recall('user 0', costOf(1)))
    t.equal(memory.recall('user 1', costOf(1)), undefined)
  }
)

const NOW = new Date(AT.getTime() + 700)

/** A memory whose database answers as it is told to, what it was asked about, and a clock that is set by hand. */
function asking(t: Test) {
  const start = performance.now()
  let now = start
  t.intercept(performance, 'now', { value: () => now })
  const at = (ms: number) => {
    now = start + ms
  }
  const questions: { users: string[]; answer: (full: boolean | number[]) => void; fail: () => void }[] = []
  const memory = new DenialMemory(
    counters =>
      new Promise((resolve, reject) => {
        const all = new Set(counters.map((_, place) => place))
        questions.push({
          users: counters.map(({ userId }) => userId),
          answer: full => resolve({ places: full === true ? all : new Set(full || []), at: NOW }),
          fail: () => reject(new Error('gone'))
        })
      })
  )
  const question = async (n: number) => {
    while (questions.length <= n) await sleep(10)
    return questions[n] as (typeof questions)[number]
  }
  return { memory, question, questions, at }
}

t.test('what the database confirms is remembered for another second from when it was asked, by its clock', async t => {
  const { memory, question, at } = asking(t)
  remember(memory, 'alice', { lastsMs: 2_900 })
  at(700)
  t.ok(memory.recall('alice', costOf(1)))
  const { answer } = await question(0)
  at(900)
  answer(true)
  await turn()
  at(1_699)
  const recalled = memory.recall('alice', costOf(1))
  t.match(recalled, { denial: { violations: [{ retryAfter: 2 }] } })
  t.strictSame(recalled?.denial.at, new Date(AT.getTime() + 1_699))
  at(1_700)
  t.equal(memory.recall('alice', costOf(1)), undefined)
})

t.test('a denial of several charges is confirmed only if all its counters, and no other, are still full', async t => {
  const { memory, question, at } = asking(t)
  for (const user of ['alice', 'carol']) rememberBoth(memory, user)
  remember(memory, 'bob')
  at(500)
  memory.recall('alice', BOTH)
  memory.recall('bob', costOf(1))
  memory.recall('carol', BOTH)
  const { users, answer } = await question(0)
  t.strictSame(users, ['alice', 'alice', 'bob', 'carol', 'carol'])
  answer([0, 3, 4])
  await turn()
  at(1_000)
  t.equal(memory.recall('alice', BOTH), undefined)
  t.equal(memory.recall('bob', costOf(1)), undefined)
  t.ok(memory.recall('carol', BOTH))
})

t.test('a denial that has changed, or was forgotten while the database was asked, is not confirmed', async t => {
  for (const [isFull, isForgotten] of [
    [false, false],
    [true, true]
  ] as const) {
    const { memory, question, at } = asking(t)
    remember(memory, 'alice')
    at(500)
    t.ok(memory.recall('alice', costOf(1)))
    const { answer } = await question(0)
    if (isForgotten) memory.forget('alice')
    answer(isFull)
    await turn()
    if (!isForgotten) t.ok(memory.recall('alice', costOf(1)), 'until its second is over')
    at(isForgotten ? 500 : 1_000)
    t.equal(memory.recall('alice', costOf(1)), undefined)
  }
})

t.test(
  'a denial whose second is over before the answer comes stays ended: a request may have been admitted since',
  async t => {
    const { memory, question, at } = asking(t)
    remember(memory, 'alice')
    at(900)
    t.ok(memory.recall('alice', costOf(1)))
    const { answer } = await question(0)
    at(1_000)
    answer(true)
    await turn()
    t.equal(memory.recall('alice', costOf(1)), undefined)
  }
)

t.test('is asked about nobody who was not recalled, and again after the database failed', async t => {
  const { memory, question, questions } = asking(t)
  remember(memory, 'alice')
  remember(memory, 'bob')
  for (let i = 0; i < 2; i++) t.ok(memory.recall('alice', costOf(1)))
  const { users, fail } = await question(0)
  t.strictSame(users, ['alice'])
  t.ok(memory.recall('alice', costOf(1)))
  t.ok(memory.recall('bob', costOf(1)))
  fail()
  t.strictSame((await question(1)).users, ['alice', 'bob'])
  t.equal(questions.length, 2)
})

t.test('once closed, asks nothing more, and waits for what it has asked', async t => {
  const { memory, question, questions } = asking(t)
  remember(memory, 'alice')
  memory.recall('alice', costOf(1))
  const { answer } = await question(0)
  memory.recall('alice', costOf(1))
  let isClosed = false
  const closed = memory.close().then(() => {
    isClosed = true
  })
  await turn()
  t.notOk(isClosed)
  answer(true)
  await closed
  const other = asking(t)
  remember(other.memory, 'bob')
  other.memory.recall('bob', costOf(1))
  await other.memory.close()
  other.memory.recall('bob', costOf(1))
  await sleep(700)
  t.strictSame([questions.length, other.questions.length], [1, 0])
})

t.test('is asked about a thousand counters at once, and then about the rest', async t => {
  const { memory, question } = asking(t)
  for (let n = 0; n < 1_001; n++) {
    remember(memory, `user ${n}`)
    memory.recall(`user ${n}`, costOf(1))
  }
  const first = await question(0)
  t.equal(first.users.length, 1_000)
  first.answer(true)
  t.strictSame((await question(1)).users, ['user 1000'])
})

t.test('once closed while it asks about a thousand counters, does not ask about the rest', async t => {
  const { memory, question, questions } = asking(t)
  for (let n = 0; n < 1_001; n++) {
    remember(memory, `user ${n}`)
    memory.recall(`user ${n}`, costOf(1))
  }
  const { answer } = await question(0)
  const closed = memory.close()
  answer(true)
  await closed
  t.equal(questions.length, 1)
})
