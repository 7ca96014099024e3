import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { adjustQuota } from '../../src/store/operator/adjust-quota.ts'
import { deleteUser } from '../../src/store/operator/delete-user.ts'
import { resetQuota } from '../../src/store/operator/reset-quota.ts'
import { BY } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { PATIENT, ROUNDS } from '../fixtures/fault.ts'
import { checkBooks, checkReplies } from '../fixtures/ledger.ts'
import { load, type Reply, summary } from '../fixtures/load.ts'
import { target } from '../fixtures/target.ts'

const RESERVATION_TTL_MS = 4_000
const CHANGES = 8
/** How long another process may remember that a user was refused. */
const MEMORY_MS = 1_000

const pg = await server(t)

/** Three servers under load, whose users have a few calls a day. */
async function stage(t: Test) {
  const connection = await pg.migrated()
  const db = await connect(connection)
  t.teardown(() => db.close())
  const quotas = { calls: { limit: 1_000_000, period: 'never' }, few: { limit: 25, period: 'day' } } as const
  const start = () => target(t, { ...PATIENT, connection, quotas, reservationTtlMs: RESERVATION_TTL_MS })
  const servers = await Promise.all([start(), start(), start()])
  const { replies, recovered, stop } = load(t, servers, { clients: 15, users: ['alice', 'bob', 'carol'] })
  await recovered(servers, 20_000)
  const well = replies.length
  /** Ends the load; `forgotten` are users whose log is gone. */
  const finish = async (forgotten: readonly string[] = []) => {
    await stop()
    const during = replies.slice(well)
    t.comment(JSON.stringify(summary(during)))
    checkReplies(t, during)
    t.notOk(
      during.some(({ status }) => status === 503),
      'nobody was told to retry'
    )
    await checkBooks(t, db, { replies, servers, reservationTtlMs: RESERVATION_TTL_MS, forgotten })
  }
  return { db, replies, finish }
}

/** Makes a change a few times, and on a slow machine until enough has happened in between. */
const repeat = async (change: () => Promise<unknown>, isEnough = () => true): Promise<void> => {
  for (let n = 0; n < CHANGES * ROUNDS || (n < 100 && !isEnough()); n++) {
    await change()
    await sleep(250)
  }
}

t.test('resets under load begin new periods, and leave every charge in the period that admitted it', async t => {
  const { db, replies, finish } = await stage(t)
  const charged = () => replies.filter(reply => isCharged(reply, 'alice', '/few')).length
  await repeat(
    () => resetQuota(db, 'alice', null, BY),
    () => charged() > 25
  )
  await finish()
  t.ok(charged() > 25, `${charged()} of 25 a period`)
})

t.test('a period that ends under load is followed by the next', async t => {
  const { db, replies, finish } = await stage(t)
  const charged = () => replies.filter(reply => isCharged(reply, 'alice', '/few')).length
  await repeat(
    () => endPeriods(db, 'few'),
    () => charged() > 25
  )
  await finish()
  const periods = await db.query("SELECT 1 FROM quota_periods WHERE user_id = 'alice' AND closed_at IS NOT NULL")
  t.ok(periods.length > 2, `${periods.length} are closed`)
  t.ok(charged() > 25, `${charged()} of 25 a period`)
})

t.test(
  'under load, a limit that is lowered applies to the very next request, and one that is raised a second later',
  async t => {
    const { db, replies, finish } = await stage(t)
    const [loweredTo, raisedTo]: [number[], number[]] = [[], []]
    await repeat(async () => {
      await adjustQuota(db, 'alice', 'few', 0, BY)
      loweredTo.push(performance.now())
      await sleep(200)
      raisedTo.push(performance.now())
      await adjustQuota(db, 'alice', 'few', 100_000, BY)
      await sleep(MEMORY_MS)
      await until200(replies, 'alice')
    })
    await finish()
    const between = replies.filter(
      ({ user, path, sentAt, endedAt }) =>
        user === 'alice' && path === '/few' && loweredTo.some((at, n) => sentAt > at && endedAt < raisedTo[n]!)
    )
    t.ok(between.length > 0)
    t.ok(
      between.every(({ status }) => status === 402),
      `each of the ${between.length} requests in between was refused`
    )
  }
)

t.test('deleting a user under load loses or doubles no charge of anybody else', async t => {
  const { db, finish } = await stage(t)
  await repeat(() => deleteUser(db, 'alice', BY))
  await finish(['alice'])
})

const isCharged = ({ user, path, status }: Reply, of: string, where: string): boolean =>
  user === of && path === where && status === 200

/** The running period of everybody ends in 50 ms. */
const endPeriods = (db: Database, type: string) =>
  db.query(
    `UPDATE quota_limits l SET period_end = greatest(date_trunc('milliseconds', clock_timestamp()), l.period_start) + interval '50 ms'
       FROM quota_types t WHERE t.id = l.quota_type_id AND t.type_key = $1`,
    [type]
  )

/** Resolves once another request of the user for `few` is let through. */
async function until200(replies: readonly Reply[], user: string): Promise<void> {
  for (const seen = replies.length, end = performance.now() + 5_000; performance.now() < end; await sleep(20))
    if (replies.slice(seen).some(reply => isCharged(reply, user, '/few'))) return
  throw new Error('the higher limit lets nobody through')
}
