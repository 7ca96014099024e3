import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import { server } from '../fixtures/database.ts'
import { RESERVATION_TTL_MS } from '../fixtures/fault.ts'
import { checkBooks, checkReplies } from '../fixtures/ledger.ts'
import { load, type Reply, summary } from '../fixtures/load.ts'
import { type Target, target } from '../fixtures/target.ts'

const pg = await server(t)
const LOCKED_MS = 3_000

/** Somebody in psql who has forgotten a COMMIT. */
async function lockCounters(t: Test, url: string, user: string): Promise<() => Promise<void>> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  t.teardown(() => sql.end({ timeout: 1 }))
  await sql`BEGIN`
  await sql`SELECT 1 FROM quota_limits WHERE user_id = ${user} FOR UPDATE`
  return async () => {
    await sql`ROLLBACK`
  }
}

/** Load by many users, and by one whose counters are locked for three seconds; returns the replies to both in that time. */
async function lockOne(
  t: Test,
  servers: Target[],
  url: string,
  clients: number
): Promise<Record<'his' | 'others', Reply[]>> {
  const replies: Reply[] = []
  const others = load(t, servers, { replies })
  const his = load(t, servers, { replies, clients, users: ['locked'] })
  await others.recovered(servers, 20_000)
  const unlock = await lockCounters(t, url, 'locked')
  const beganAt = performance.now()
  await sleep(LOCKED_MS)
  await unlock()
  const endedAt = performance.now()
  await others.recovered(servers, 8_000)
  await Promise.all([others.stop(), his.stop()])
  const during = others.between(beganAt, endedAt)
  const isHis = ({ user }: Reply) => user === 'locked'
  t.comment(
    `his ${JSON.stringify(summary(during.filter(isHis)))}, others' ${JSON.stringify(summary(during.filter(reply => !isHis(reply))))}`
  )
  t.ok(
    replies.some(reply => isHis(reply) && reply.sentAt > endedAt && reply.status === 200),
    'the user is served again once the lock is gone'
  )
  checkReplies(t, during)
  const db = await connect(url)
  try {
    await checkBooks(t, db, { replies, servers, reservationTtlMs: RESERVATION_TTL_MS })
  } finally {
    await db.close()
  }
  return { his: during.filter(isHis), others: during.filter(reply => !isHis(reply)) }
}

t.test('a row that somebody has locked causes 503s for its own user only, and delays nobody beyond 2 s', async t => {
  const url = await pg.migrated()
  const servers = await Promise.all(
    [1, 2].map(() => target(t, { connection: url, reservationTtlMs: RESERVATION_TTL_MS }))
  )
  const { his, others } = await lockOne(t, servers, url, 4)
  t.ok(
    his.some(({ status }) => status === 503),
    'the lock was felt'
  )
  t.strictSame(
    others.filter(({ status }) => status === 503),
    []
  )
})

t.test('a pool whose connections all wait for a lock delays no request beyond 2 s, and recovers', async t => {
  const url = await pg.migrated()
  const servers = [await target(t, { connection: `${url}?max=2`, reservationTtlMs: RESERVATION_TTL_MS })]
  const { his } = await lockOne(t, servers, url, 8)
  t.ok(
    his.some(({ status }) => status === 503),
    'the lock was felt'
  )
})
