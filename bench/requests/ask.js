// Who asks: many at once (wrk, else autocannon), one after another, or everybody until nothing is left.
import { Agent, get } from 'node:http'
import autocannon from 'autocannon'
import postgres from 'postgres'
import { quantile } from './statistics.js'
import { askByWrk, wrkVersion } from './wrk.js'

/** Of those that a connection goes through again and again: to make more takes time while others already wait. */
const DRAWN = 100

/** Every user once: a first sight is not what is measured. */
export function greet(urls, { users, from = 0 }) {
  const connections = Math.min(20, users)
  const each = users / connections
  let next = from
  return fire(urls, {
    connections,
    amount: users,
    setupClient: client => {
      client.setRequests(Array.from({ length: each }, (_, i) => requestOf(next + i)))
      next += each
    }
  })
}

/** Users by chance, for so many seconds; connection i asks process i mod n. `denied` is the status of who is. */
export const ask = (urls, load, seconds, denied) =>
  wrkVersion !== undefined && urls.length === 1
    ? askByWrk(urls[0], load, seconds, denied)
    : askByAutocannon(urls, load, seconds)

const askByAutocannon = (urls, { connections, users, from = 0 }, seconds) =>
  fire(urls, {
    connections,
    duration: seconds,
    setupClient: client =>
      client.setRequests(Array.from({ length: DRAWN }, () => requestOf(from + Math.floor(Math.random() * users))))
  })

/** Each user twice as often as the limit allows, and none is cut off; tells who got how many 2xx. */
export async function askToTheEdge(urls, { connections, users, limit }) {
  const admitted = new Map(Array.from({ length: users }, (_, i) => [i, 0]))
  const count = user => status => {
    if (status === 200) admitted.set(user, admitted.get(user) + 1)
  }
  const asked = await fire(urls, {
    connections,
    amount: 2 * users * limit,
    setupClient: client => {
      const first = Math.floor(Math.random() * users)
      const order = Array.from({ length: users }, (_, i) => (first + i) % users)
      client.setRequests(order.map(user => ({ ...requestOf(user), onResponse: count(user) })))
    }
  })
  return { ...asked, admitted: [...admitted.values()] }
}

async function fire(urls, options) {
  const statuses = new Map()
  const latencies = []
  const run = autocannon({ url: urls, sampleInt: 100, ...options })
  // Its own latencies are whole milliseconds.
  run.on('response', (_client, status, _bytes, ms) => {
    statuses.set(status, (statuses.get(status) ?? 0) + 1)
    latencies.push(ms)
  })
  const { errors, duration, requests } = await run
  return { ...asked({ statuses, latencies, errors, seconds: duration }), cut: requests.sent - latencies.length }
}

const asked = ({ latencies, ...rest }) => ({
  ...rest,
  requests: latencies.length,
  p50: quantile(latencies, 0.5),
  p99: quantile(latencies, 0.99)
})

const requestOf = user => ({ method: 'GET', path: '/calls', headers: { 'x-user': `user-${user}` } })

/** One after another on one connection that is kept. */
export async function askInTurn([url], { users }, seconds) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const statuses = new Map()
  let errors = 0
  const latencies = await timeInTurn(seconds, async n => {
    try {
      const status = await statusOf(url, { agent, headers: { 'x-user': `user-${n % users}` } })
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
    } catch {
      errors += 1
    }
  })
  agent.destroy()
  return { ...asked({ statuses, latencies, errors, seconds }), cut: 0 }
}

const statusOf = (url, options) =>
  new Promise((resolve, reject) => {
    get(url, options, reply => reply.resume().once('end', () => resolve(reply.statusCode))).once('error', reject)
  })

/** Milliseconds of `SELECT 1` on one connection: what a round trip to this server costs, prepared and by the driver that the quota has. */
export async function askSelectOne(url, seconds) {
  const sql = postgres(url, { max: 1 })
  const select = () => sql`SELECT 1`
  await timeInTurn(0.5, select)
  const latencies = await timeInTurn(seconds, select)
  await sql.end()
  return latencies
}

async function timeInTurn(seconds, work) {
  const latencies = []
  const end = performance.now() + seconds * 1000
  for (let start = performance.now(); start < end; start = performance.now()) {
    await work(latencies.length)
    latencies.push(performance.now() - start)
  }
  return latencies
}
