// The embedded database's directory belongs to one process: a pid file that is never taken from a living one.
import { linkSync, mkdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { FST_QUOTA_DIRECTORY_IN_USE } from '../quota/errors.ts'

/** The engine has no lock of its own: two processes opened one directory without complaint and lost 2 950 of 11 850 acknowledged rows. */
export function lockDirectory(dir: string): () => void {
  mkdirSync(dir, { recursive: true })
  return lock(dir, join(dir, 'fastify-quota.pid'))
}

/**
 * A dead owner's file is taken away under a lock of its own: of four processes that each unlinked what they had read before, up to
 * four got the directory, because the slower ones unlinked the file of the first.
 */
function lock(dir: string, file: string): () => void {
  if (create(file)) return () => takeAway(file)
  refuseLiving(dir, file)
  const unlock = lock(dir, `${file}.takeover`)
  try {
    refuseLiving(dir, file)
    takeAway(file)
    if (create(file)) return () => takeAway(file)
  } finally {
    unlock()
  }
  throw new FST_QUOTA_DIRECTORY_IN_USE(dir, ownerOf(file).split(' ')[0] || 'unknown')
}

/** The file appears with its content in it: an empty one would look like a dead owner's. */
function create(file: string): boolean {
  const draft = `${file}.${process.pid}`
  writeFileSync(draft, `${process.pid} ${startOf(process.pid)}\n`)
  try {
    linkSync(draft, file)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  } finally {
    takeAway(draft)
  }
}

function refuseLiving(dir: string, file: string): void {
  const owner = ownerOf(file)
  if (isAlive(owner)) throw new FST_QUOTA_DIRECTORY_IN_USE(dir, owner.split(' ')[0] as string)
}

/** Empty where there is no file. */
function ownerOf(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
}

/** A pid comes again: the process is the owner only if it also started when the owner did. */
function isAlive(owner: string): boolean {
  const [pid, started] = owner.split(' ')
  if (!pid || !/^[0-9]+$/.test(pid)) return false
  try {
    process.kill(Number(pid), 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
  }
  return started === undefined || started === startOf(Number(pid))
}

/** The process's start time in clock ticks; `0` where the system does not tell. */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '0'
  } catch {
    return '0'
  }
}

function takeAway(file: string): void {
  try {
    unlinkSync(file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
