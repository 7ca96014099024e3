import { Agent, get } from 'node:http'
import t, { type Test } from 'tap'
import { server } from '../fixtures/database.ts'
import { PATIENT } from '../fixtures/fault.ts'
import { target } from '../fixtures/target.ts'

const WARM_UP = 30_000
/** After the warm-up; 200 000 take five minutes. */
const REQUESTS = Number(process.env.MEMORY_REQUESTS ?? 40_000)
const CLIENTS = 50
const MAX_GROWTH_MB = 20

/** Charged, denied and released requests, of as many users as may come in a day. */
const PATHS = ['/calls?ms=0', '/few?ms=0', '/calls?ms=0&status=409', '/few?ms=0']
const USERS = 5_000

const pg = await server(t)

/** One of a hundred clients leaves before its answer. */
function ask(base: string, i: number, agent: Agent): Promise<void> {
  return new Promise((resolve, reject) => {
    const leaves = i % 100 === 99
    const headers = { 'x-user': `user-${i % 2 === 0 ? i % USERS : i % 20}`, 'x-tag': `tag-${i}` }
    const request = get(`${base}${PATHS[i % PATHS.length]}`, { agent, headers }, response => {
      response.resume().on('end', resolve).on('error', reject)
    })
    request.on('error', error => (leaves ? resolve() : reject(error)))
    if (leaves) request.on('socket', () => setImmediate(() => request.destroy()))
  })
}

async function memoryOf(base: string): Promise<{ rss: number; heap: number }> {
  const { rss, heapUsed } = (await (await fetch(`${base}/memory`)).json()) as NodeJS.MemoryUsage
  return { rss: rss / 1_000_000, heap: heapUsed / 1_000_000 }
}

t.test(`memory is flat over ${REQUESTS} requests`, async (t: Test) => {
  const { base, counts } = await target(t, { ...PATIENT, connection: await pg.migrated() })
  const agent = new Agent({ keepAlive: true, maxSockets: CLIENTS })
  t.teardown(() => agent.destroy())
  let next = 0
  const run = (count: number) => {
    const end = next + count
    const client = async () => {
      while (next < end) await ask(base, next++, agent)
    }
    return Promise.all(Array.from({ length: CLIENTS }, client))
  }
  await run(WARM_UP)
  const warm = await memoryOf(base)
  let [rss, heap] = [0, 0]
  for (let done = 0; done < REQUESTS; done += REQUESTS / 4) {
    await run(REQUESTS / 4)
    const now = await memoryOf(base)
    rss = Math.max(rss, now.rss - warm.rss)
    heap = Math.max(heap, now.heap - warm.heap)
    t.comment(`${next} requests: ${now.rss.toFixed()} MB resident, ${now.heap.toFixed(1)} MB of heap`)
  }
  t.ok(rss < MAX_GROWTH_MB, `resident: ${rss.toFixed(1)} MB more than after the first ${WARM_UP}`)
  t.ok(heap < MAX_GROWTH_MB, `heap: ${heap.toFixed(1)} MB more`)
  const { charged, released, denied, pending } = await counts()
  t.ok(charged > REQUESTS / 5 && released > REQUESTS / 5 && denied > REQUESTS / 5)
  t.equal(pending, 0)
})
