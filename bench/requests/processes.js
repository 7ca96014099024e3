// Server processes of one contender.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

const PATIENCE_MS = 30_000

/** The first one alone: it makes the tables. */
export async function start(name, storeUrl, { limit, processes, pool }) {
  const children = []
  const startOne = () => {
    const child = forkOne([name, storeUrl, limit, pool / processes].map(String))
    children.push(child)
    return child.url
  }
  /** Gives what was wrong with their ends. */
  const stop = async () => (await Promise.all(children.map(child => child.stop()))).flat()
  try {
    const first = await startOne()
    const others = await Promise.all(Array.from({ length: processes - 1 }, startOne))
    return { urls: [first, ...others], stop }
  } catch (error) {
    await stop()
    throw new Error(`${name}: ${error.message}`)
  }
}

function forkOne(args) {
  const child = fork(join(import.meta.dirname, 'contenders.js'), args, {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc']
  })
  const ended = once(child, 'exit').then(([code, signal]) => code ?? signal)
  const listening = once(child, 'message').then(([port]) => `http://127.0.0.1:${port}/calls`)
  const failed = ended.then(code => Promise.reject(new Error(`a process ended with ${code} before it listened`)))
  const stop = async () => {
    child.kill('SIGTERM')
    const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS)
    const code = await ended
    clearTimeout(timer)
    return code === 0 ? [] : [`a process ended with ${code}`]
  }
  failed.catch(() => {})
  return { url: Promise.race([listening, failed]), stop }
}
