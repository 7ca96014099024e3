// The load of one process by wrk, where it is in the path: it takes a third of autocannon's CPU for a reply, and the two cores are shared.
import { spawn, spawnSync } from 'node:child_process'
import { join } from 'node:path'

/** As it names itself; undefined where there is none. */
export const wrkVersion = /wrk (\S+)/.exec(spawnSync('wrk', ['-v'], { encoding: 'utf8' }).stdout ?? '')?.[1]

/**
 * Users by chance, for so many seconds. It tells replies above 399 apart, and not which they were: `denied` is the one that is expected, and everybody
 * has been asked before by one who does look.
 */
export async function askByWrk(url, { connections, users, from = 0 }, seconds, denied) {
  const script = join(import.meta.dirname, 'users.lua')
  const args = ['-t1', `-c${connections}`, `-d${seconds}s`, '-s', script, url, '--', from, users].map(String)
  const child = spawn('wrk', args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.on('data', text => {
    said += text
  })
  const code = await new Promise((resolve, reject) => child.once('close', resolve).once('error', reject))
  const told = /^figures (.*)$/m.exec(said)
  if (code !== 0 || told === null) throw new Error(`wrk ended with ${code}: ${said}`)
  const { requests, microseconds, errors, above399, p50, p99 } = JSON.parse(told[1])
  const statuses = new Map([
    [200, requests - above399],
    [denied === 200 ? 'above 399' : denied, above399]
  ])
  for (const [status, count] of statuses) if (count === 0) statuses.delete(status)
  return {
    statuses,
    requests,
    errors,
    seconds: microseconds / 1e6,
    p50: p50 / 1000,
    p99: p99 / 1000,
    // Each connection is cut off with a request under way.
    cut: connections
  }
}
