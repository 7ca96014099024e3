// What an operator's routes cost on a large log: a deep page beside the first, and the memory that an export takes.
// `npm run bench:operator`; needs nothing but the dependencies, and takes some minutes.
import { execFileSync, spawn } from 'node:child_process'
import { join, resolve } from 'node:path'
import postgres from 'postgres'
import { freePort, startEmbedded } from './embedded.js'

const ROWS = Number(process.env.ROWS ?? 1_000_000)
const USERS = Math.max(Math.round(ROWS / 100), 10)
const PASSES = 15
const DEEP = Math.round(ROWS * 0.9)
const TOKEN = 'a-token-for-this-run-alone'
const root = resolve(import.meta.dirname, '..')

const database = await startEmbedded()
let server
try {
  const { url } = database
  server = await startServer(url)
  await fill(url)
  print(`${ROWS} log rows of ${USERS} users, ${await versionOf(url)}, Node ${process.version}\n`)
  await comparePages()
  // Days with fewer rows are never added up.
  if (ROWS >= 30_000) await measureStatistics(url)
  await measureExports()
} finally {
  server?.child.kill('SIGTERM')
  await database.stop()
}

async function startServer(url) {
  execFileSync(process.execPath, [join(root, 'dist/cli/main.js'), 'init'], {
    env: { ...process.env, DATABASE_URL: url }
  })
  const port = await freePort()
  const child = spawn(process.execPath, [join(root, 'dist/server/main.js')], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      ...process.env,
      DATABASE_URL: url,
      PORT: String(port),
      LOG_LEVEL: 'error',
      ADMIN_TOKEN: TOKEN,
      JWT_SECRET: 'a secret for this run alone, and no other'
    }
  })
  await new Promise((done, fail) => {
    child.stdout.on('data', text => String(text).includes('listens') && done())
    child.once('exit', code => fail(new Error(`the server ended with ${code}`)))
  })
  return { child, url: `http://127.0.0.1:${port}/admin/quotas` }
}

/** A month of charges, written past the plugin: it would take an hour. */
async function fill(url) {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  await sql.unsafe(`INSERT INTO quota_users (id) SELECT 'user-' || i FROM generate_series(1, ${USERS}) i`)
  await sql.unsafe(
    `INSERT INTO quota_limits (user_id, quota_type_id, limit_amount, used_amount, period_start, period_end)
     SELECT u.id, t.id, 1000, (random() * 1000)::int, date_trunc('month', now()), date_trunc('month', now()) + interval '1 month'
       FROM quota_users u CROSS JOIN quota_types t`
  )
  await sql.unsafe(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, endpoint, metadata, created_at)
     SELECT 'user-' || (1 + floor(random() * random() * ${USERS})), t.ids[1 + i % 5], 1, (ARRAY['/l3_detect/:patient/:date', '/process/:patient/:date'])[1 + i % 2],
            jsonb_build_object('model', 'small', 'n', i), now() - i * interval '30 days' / ${ROWS}
       FROM generate_series(1, ${ROWS}) i, (SELECT array_agg(id ORDER BY id) AS ids FROM quota_types) t`
  )
  await sql.unsafe('ANALYZE')
  await sql.end()
}

async function versionOf(url) {
  const sql = postgres(url, { max: 1 })
  const [row] = await sql`SHOW server_version`
  await sql.end()
  return `PostgreSQL ${row.server_version}`
}

async function get(path) {
  const reply = await fetch(`${server.url}${path}`, { headers: { 'x-admin-token': TOKEN } })
  if (reply.status !== 200) throw new Error(`${path}: ${reply.status} ${await reply.text()}`)
  return await reply.json()
}

/** The cursor of a page about `rows` rows into the list. */
async function cursorAt(path, rows) {
  const { next_cursor } = await get(`${path}&limit=1&offset=${rows}`)
  if (next_cursor === null) throw new Error(`${path} has no row ${rows}`)
  return next_cursor
}

async function comparePages() {
  const pages = [
    ['usage-logs', '/usage-logs?', DEEP],
    ['usage-logs of a type', '/usage-logs?quota_type=api_calls_l3_detect', Math.round(DEEP / 5)],
    ['usage-logs of an endpoint', '/usage-logs?endpoint=/l3_detect/:patient/:date', Math.round(DEEP / 2)],
    ['usage-logs of a span', '/usage-logs?start_date=1970-01-01', DEEP],
    ['usage-logs of a user', '/usage-logs?user_id=user-1', 100],
    ['users by usage_percent', '/users?', Math.round(USERS * 0.9)],
    ['users by id', '/users?sort=user_id', Math.round(USERS * 0.9)]
  ]
  print('page of 100                        first    deep   ratio (medians, ms)')
  for (const [name, path, rows] of pages) {
    const cursor = await cursorAt(path, rows)
    const first = []
    const deep = []
    // Side by side, so that whatever else the machine does falls on both.
    for (let i = 0; i < PASSES; i++) {
      first.push(await timed(() => get(path)))
      deep.push(await timed(() => get(`${path}&cursor=${cursor}`)))
    }
    const [a, b] = [median(first), median(deep)]
    print(
      `${`${name}, row ${rows}`.padEnd(33)}${a.toFixed(1).padStart(7)}${b.toFixed(1).padStart(8)}${(b / a).toFixed(2).padStart(8)}`
    )
  }
}

/** From the log, in a time zone that nobody asked for before; then from what is added up. */
async function measureStatistics(url) {
  const path = '/statistics/api_calls_l3_detect?days=30'
  const fromLog = await timed(() => get(`${path}&time_zone=Etc/GMT`))
  await get(path)
  const seconds = (await timed(() => addedUp(url))) / 1000
  print(
    `\nstatistics over 30 days     ms (median)     from the log ${fromLog.toFixed(0)}, added up within ${seconds.toFixed(0)} s`
  )
  for (const interval of ['day', 'hour']) {
    const times = []
    for (let i = 0; i < PASSES; i++) times.push(await timed(() => get(`${path}&interval=${interval}`)))
    print(`by ${interval}`.padEnd(24) + median(times).toFixed(1).padStart(11))
  }
  print('')
}

/** Both time zones: what is added up of the one takes a core from the other's statistics. */
async function addedUp(url) {
  const sql = postgres(url, { max: 1 })
  for (;;) {
    const windows = await sql`SELECT 1 FROM quota_rollups WHERE time_zone LIKE '%/30 days' AND rolled_until > day_start`
    if (windows.length === 2) break
    await new Promise(done => setTimeout(done, 500))
  }
  await sql.end()
}

async function measureExports() {
  print('export             rows      s   idle MB   peak MB   more')
  for (const format of ['csv', 'ndjson']) {
    const idle = rss()
    let peak = idle
    const watch = setInterval(() => {
      peak = Math.max(peak, rss())
    }, 50)
    const start = performance.now()
    const reply = await fetch(`${server.url}/usage-logs?format=${format}`, { headers: { 'x-admin-token': TOKEN } })
    let lines = format === 'csv' ? -1 : 0
    for await (const chunk of reply.body) for (const byte of chunk) if (byte === 10) lines += 1
    clearInterval(watch)
    if (lines !== ROWS) throw new Error(`${lines} rows came, and ${ROWS} are there`)
    const seconds = (performance.now() - start) / 1000
    const columns = [lines, seconds.toFixed(1), idle.toFixed(0), peak.toFixed(0), `+${(peak - idle).toFixed(0)}`]
    print(`${format.padEnd(12)}${columns.map((text, i) => String(text).padStart([11, 7, 10, 10, 7][i])).join('')}`)
    if (peak - idle > 100) throw new Error('an export took more than 100 MB')
  }
}

/** Of the server's process, in MB. */
function rss() {
  return Number(execFileSync('ps', ['-o', 'rss=', '-p', String(server.child.pid)])) / 1024
}

async function timed(work) {
  const start = performance.now()
  await work()
  return performance.now() - start
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]
}

function print(text) {
  process.stdout.write(`${text}\n`)
}
