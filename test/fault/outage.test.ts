import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t from 'tap'
import { server } from '../fixtures/database.ts'
import { type Fault, RESERVATION_TTL_MS, suffer } from '../fixtures/fault.ts'
import { postgresProcess } from '../fixtures/postgres-process.ts'
import { target } from '../fixtures/target.ts'

const pg = await server(t, ['-c', 'fsync=off', '-c', 'max_connections=50'])
const { crash, stop, start, freeze, thaw } = await postgresProcess(t, pg)
const url = await pg.migrated()
// The same throughout: after an outage nothing has to be restarted.
const servers = await Promise.all(
  [1, 2].map(() => target(t, { connection: url, reservationTtlMs: RESERVATION_TTL_MS }))
)
// Transactions go on throughout, too: a connection that is lost within one must not end the process.
const adjusting = new AbortController()
t.teardown(() => adjusting.abort())
for (const { base } of servers) void adjust(base, adjusting.signal)

async function adjust(base: string, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await fetch(`${base}/adjust`).catch(() => {})
    await sleep(2)
  }
}

const stage = { servers, replies: [], url }
const guarantee = (title: string, fault: Fault) => t.test(title, t => suffer(t, stage, fault))

const setReadOnly = async (value: 'on' | 'off') => {
  const sql = postgres(pg.url(), { max: 1, onnotice: () => {} })
  await sql.unsafe(`ALTER SYSTEM SET default_transaction_read_only = ${value}`)
  await sql`SELECT pg_reload_conf()`
  await sql.end()
}

/** Somebody else's connections, as many as the server has. */
const taken = new Set<postgres.Sql>()
const take = async () => {
  const sql = postgres(pg.url(), { max: 1, onnotice: () => {} })
  try {
    await sql`SELECT 1`
    taken.add(sql)
  } catch {
    await sql.end({ timeout: 0 })
  }
}
const takeAll = () => Promise.all(Array.from({ length: 40 }, take))
const takeTheirs = async () => {
  await takeAll()
  const [one] = taken
  // Now those of the servers: each that reconnects finds one of ours in its place, or is cut off again the next time.
  for (let i = 0; i < 5; i++) {
    await one!`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fastify-quota'`
    await takeAll()
  }
}
const leave = async () => {
  await Promise.all([...taken].map(sql => sql.end({ timeout: 1 })))
  taken.clear()
}

guarantee('a PostgreSQL that crashes under load causes 503s at worst, and no charge is lost or doubled', {
  begin: crash,
  lastsMs: 1_000,
  end: start
})

guarantee('a PostgreSQL that has become read-only causes 503s at worst, and service recovers once it is writable', {
  begin: () => setReadOnly('on'),
  lastsMs: 1_000,
  end: () => setReadOnly('off')
})

guarantee('a PostgreSQL with no connection left causes 503s at worst, and service recovers once it has some again', {
  begin: takeTheirs,
  lastsMs: 1_000,
  end: leave
})

guarantee('after a PostgreSQL was frozen for longer than requests wait for it, new requests are served', {
  begin: freeze,
  lastsMs: 1_500,
  end: thaw
})

guarantee('a PostgreSQL that is frozen for 3 s delays no request beyond 2 s, and no charge is lost or doubled', {
  begin: freeze,
  lastsMs: 3_000,
  end: thaw,
  isLong: true
})

guarantee('a PostgreSQL that is stopped for 3 s causes 503s at worst, and service recovers when it is back', {
  begin: stop,
  lastsMs: 3_000,
  end: start,
  isLong: true
})
