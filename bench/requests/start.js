// What the plugin adds to a server's start, with the tables in place, and what it asks of the database while nothing happens.
// `npm run bench:start`; the database as in `npm run bench`.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import { makeStore, startPostgres } from './servers.js'
import { median } from './statistics.js'

const PASSES = Number(process.env.PASSES ?? 15)
const IDLE_SECONDS = Number(process.env.IDLE ?? 120)

if (process.send === undefined) await compare()
else await start(process.argv[2], process.argv[3])

/** One start: its milliseconds, then it waits to be ended. What is imported is not counted, as it is not Fastify's either. */
async function start(name, url) {
  const { default: quotaPlugin } = await import('../../dist/index.js')
  let statements = 0
  const began = performance.now()
  const app = Fastify()
  if (name === 'quota')
    app.register(quotaPlugin, {
      connection: { url, debug: () => statements++ },
      quotas: { calls: { limit: 100 } },
      identify: request => request.headers['x-user'],
      admin: { token: 'a-token-for-this-run-alone' }
    })
  app.get('/calls', { config: { quota: 'calls' } }, async () => ({ ok: true }))
  await app.listen({ host: '127.0.0.1', port: 0 })
  process.send(performance.now() - began)
  process.on('message', () => process.send(statements))
  process.once('SIGTERM', () => app.close().then(() => process.exit(0)))
}

async function compare() {
  const postgres = await startPostgres()
  try {
    const store = await makeStore('quota', { postgres })
    const times = { bare: [], quota: [] }
    for (let pass = 0; pass < PASSES; pass++)
      for (const name of Object.keys(times)) {
        const { child, took } = await started(name, store.url)
        times[name].push(took)
        await ended(child)
      }
    const [bare, quota] = [median(times.bare), median(times.quota)]
    console.log(`${postgres.version}, Node ${process.version}; medians of ${PASSES} starts`)
    console.log(`bare ${bare.toFixed(0)} ms, quota ${quota.toFixed(0)} ms: ${(quota - bare).toFixed(0)} ms more`)
    await watchIdle(store.url)
    await store.drop()
  } finally {
    await postgres.stop()
  }
}

async function started(name, url) {
  const child = fork(fileURLToPath(import.meta.url), [name, url])
  const [took] = await once(child, 'message')
  return { child, took }
}

async function ended(child) {
  child.kill('SIGTERM')
  await once(child, 'exit')
}

/** Statements, by the driver's own word. */
async function watchIdle(url) {
  const { child } = await started('quota', url)
  const asked = async () => {
    child.send('how many?')
    return (await once(child, 'message'))[0]
  }
  await sleep(5_000)
  const before = await asked()
  await sleep(IDLE_SECONDS * 1000)
  const more = (await asked()) - before
  console.log(`idle, ${IDLE_SECONDS} s: ${more} statements, one in ${(IDLE_SECONDS / more).toFixed(0)} s`)
  await ended(child)
}
