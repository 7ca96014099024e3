// Checked by `npx tsc`: a @ts-expect-error above a line that compiles is an error.
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import t from 'tap'
import quotaPlugin, {
  type Balance,
  type Check,
  errors,
  type FastifyQuota,
  quotaPlugin as named,
  type QuotaOptions,
  type Reservation
} from '../../src/index.ts'

/** Never called: written for the compiler. */
export async function instanceTypes(app: FastifyInstance, request: FastifyRequest): Promise<void> {
  const check: Check = await app.quota.check('alice', 'calls')
  // @ts-expect-error an amount is changed with setAmount, which validates it
  request.quota.charges[0]!.amount = 2
  // @ts-expect-error a check has no periodStart
  check.periodStart
  const balance: Balance = await app.quota.consume('alice', 'calls', 1, { idempotencyKey: 'k', metadata: { a: 1 } })
  balance.resetsAt satisfies Date | null
  // @ts-expect-error resetsAt is null if the type never resets
  balance.resetsAt.getTime()
  const remaining: number = await app.quota.remaining('alice', 'calls')
  const all: Balance[] = await app.quota.all('alice')
  const reservation: Reservation = await app.quota.reserve('alice', ['calls', { type: 'tokens', amount: remaining }])
  await reservation.commit({ amounts: { tokens: all.length } })
  // @ts-expect-error an id is read-only
  reservation.id = 'other'
  // @ts-expect-error credit needs an amount
  await app.quota.credit('alice', 'storage')
  // @ts-expect-error setUsage takes no key: to repeat it changes nothing
  await app.quota.setUsage('alice', 'storage', 1, { idempotencyKey: 'k' })
  // @ts-expect-error amounts are numbers
  await app.quota.consume('alice', 'calls', '1')
  // @ts-expect-error there is no such option
  await app.quota.consume('alice', 'calls', 1, { idempotency_key: 'k' })
  const { quotasReset } = await app.quota.reset('alice')
  quotasReset satisfies string[]
  app.quota satisfies FastifyQuota
  // @ts-expect-error there is no such call
  app.quota.charge('alice')

  request.quota.userId satisfies string | null
  request.quota.setAmount('tokens', 5)
  request.quota.metadata = { patient: 7 }
  request.quota.charges[0]?.balance.remaining satisfies number | undefined
  // @ts-expect-error request.quota is set by the plugin only
  request.quota = undefined
  // @ts-expect-error metadata is an object
  request.quota.metadata = 'text'

  await reservation.commit().catch(error => {
    if (error instanceof errors.FST_QUOTA_EXCEEDED) error.violations[0]?.required satisfies number | undefined
  })
}

/** Never called: written for the compiler. */
export async function optionTypes(): Promise<void> {
  const app = Fastify()
  await app.register(quotaPlugin)
  await app.register(quotaPlugin, { quotas: { calls: { limit: 5 } } })
  await app.register(quotaPlugin, { identify: async request => request.headers.authorization })
  await app.register(quotaPlugin, { identify: request => request.headers['x-user-id'] })
  // @ts-expect-error a limit is needed
  await app.register(quotaPlugin, { quotas: { calls: {} } })
  // @ts-expect-error a misspelt option
  await app.register(quotaPlugin, { quota: {} })
  // @ts-expect-error no such period
  await app.register(quotaPlugin, { quotas: { calls: { limit: 5, period: 'fortnight' } } })

  const options: QuotaOptions[] = [
    { connection: 'postgres://localhost/app' },
    { connection: { dataDir: './data' } },
    { connection: { url: 'postgres://localhost/app', max: 5 } },
    { admin: false, self: false },
    { admin: { token: { ops: 'x', deploy: 'y' } } },
    { jwt: { secret: 'x' } },
    { settle: 'after-reply', storeFailure: 'open', reservationTtlMs: 1000 },
    {
      rules: [{ method: ['GET', 'POST'], url: '/*', quota: ['calls', { type: 'tokens', amount: r => r.url.length }] }]
    },
    { rules: [{ url: '/free', quota: false }] }
  ]
  // @ts-expect-error a connection is not a number
  options.push({ connection: 5 })
  // @ts-expect-error a rule needs a url
  options.push({ rules: [{ quota: 'calls' }] })
  // @ts-expect-error an amount is a number
  options.push({ rules: [{ url: '/', quota: 'calls', amount: '1' }] })
}

t.test('exports the plugin by default and by name', async t => {
  t.equal(quotaPlugin, named)
  t.type(errors.FST_QUOTA_EXCEEDED, 'function')
})
