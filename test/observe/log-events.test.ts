import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyBaseLogger } from 'fastify'
import t from 'tap'
import quotaPlugin from '../../src/index.ts'
import { logEvent } from '../../src/observe/log-events.ts'
import { embedded } from '../fixtures/database.ts'
import { ask, byHeader, newUser, onEmbedded } from '../fixtures/metered.ts'

const db = await embedded(t)

t.test(
  'logs charges as info and denials as warnings, with user, type, amount and balance, but no path parameter, query or token',
  async t => {
    const lines: Record<string, unknown>[] = []
    const app = Fastify({
      logger: { level: 'debug', stream: { write: (line: string) => void lines.push(JSON.parse(line)) } }
    })
    t.teardown(() => app.close())
    await app.register(quotaPlugin, {
      ...onEmbedded(db),
      quotas: { logged: { limit: 5 } },
      identify: byHeader,
      admin: { token: 'the-admin-token-of-this-test' }
    })
    app.get('/l3_detect/:patient', { config: { quota: { type: 'logged', amount: 3 } } }, async (request, reply) => {
      request.quota.setAmount('logged', 2)
      return reply.code((request.params as { patient: string }).patient === 'nobody' ? 404 : 200).send('x')
    })
    const user = newUser()
    await ask(app, user, '/l3_detect/nobody')
    await ask(app, user, '/l3_detect/Jane-Doe?secret=hidden')
    for (let i = 0; i < 2; i++) await ask(app, user, '/l3_detect/Jane-Doe')
    await app.inject({ url: '/admin/quotas/usage-logs', headers: { 'x-admin-token': 'a-wrong-token-that-is-secret' } })
    const ours = lines.filter(line => String(line.msg).startsWith('quota'))
    t.match(ours, [
      {
        level: 20,
        msg: 'quota released',
        user,
        type: 'logged',
        amount: 3,
        remaining: 5,
        status: 404,
        endpoint: '/l3_detect/:patient'
      },
      {
        level: 30,
        msg: 'quota charged',
        user,
        type: 'logged',
        amount: 2,
        remaining: 3,
        endpoint: '/l3_detect/:patient'
      },
      { level: 30, msg: 'quota charged', amount: 2, remaining: 1 },
      { level: 40, msg: 'quota denied', user, type: 'logged', amount: 3, remaining: 1, limit: 5, status: 402 },
      { level: 40, msg: 'quota admin request refused' }
    ])
    t.notMatch(JSON.stringify(ours), /Jane|hidden|secret/)
  }
)

t.test(
  'logs what an amended charge costs in the end and what that leaves, and no charge that stays as it was',
  async t => {
    const lines: Record<string, unknown>[] = []
    const app = Fastify({ logger: { stream: { write: (line: string) => void lines.push(JSON.parse(line)) } } })
    t.teardown(() => app.close())
    const quotas = { logged: { limit: 5 }, late: { limit: 100 } }
    await app.register(quotaPlugin, { ...onEmbedded(db), quotas, identify: byHeader })
    app.addHook('onSend', async request => request.quota.setAmount('late', 30))
    app.get('/work', { config: { quota: ['logged', { type: 'late', amount: 20 }] } }, async () => 'x')
    const user = newUser()
    await ask(app, user, '/work')
    while (app.quota.counts().amended === 0) await sleep(5)
    const ours = lines.filter(line => String(line.msg).startsWith('quota charge'))
    t.match(ours, [
      { msg: 'quota charged', type: 'logged', amount: 1, remaining: 4 },
      { msg: 'quota charged', type: 'late', amount: 20, remaining: 80 },
      {
        msg: 'quota charge amended to its actual cost',
        user,
        type: 'late',
        amount: 30,
        remaining: 70,
        endpoint: '/work'
      }
    ])
    t.equal(ours.length, 3)
  }
)

t.test('logs an amended charge as info, and what the store failed to do as an error, each in one line', async t => {
  const lines: unknown[] = []
  const at = (level: string) => (fields: object, msg: string) => void lines.push({ level, msg, ...fields })
  const log = { info: at('info'), debug: at('debug'), warn: at('warn'), error: at('error') }
  const tell = (event: Parameters<typeof logEvent>[0]) => logEvent(event, log as unknown as FastifyBaseLogger)
  const error = new Error('planted')
  const common = { userId: 'alice', endpoint: '/work' }
  tell({ name: 'amended', ...common, charges: [{ type: 'tokens', amount: 7, remaining: 3 }] })
  tell({ name: 'unenforced', ...common, error })
  tell({ name: 'store-failed', ...common, error })
  tell({ name: 'owed', ...common, error, pending: 2 })
  tell({ name: 'dropped', ...common, error })
  const who = { user: 'alice', endpoint: '/work' }
  t.strictSame(lines, [
    {
      level: 'info',
      msg: 'quota charge amended to its actual cost',
      ...who,
      type: 'tokens',
      amount: 7,
      remaining: 3
    },
    { level: 'error', msg: 'quota not enforced: the store failed, and storeFailure is open', ...who, err: error },
    { level: 'error', msg: 'quota store failed; the request was refused', ...who, err: error },
    {
      level: 'error',
      msg: 'quota settlement could not be written; it will be retried',
      ...who,
      err: error,
      pending: 2
    },
    { level: 'error', msg: 'quota settlement was given up', ...who, err: error }
  ])
})
