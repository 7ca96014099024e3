// The embedded database's directory belongs to one process: a pid file that is never taken from a living process.
import { randomUUID } from 'node:crypto'
import {
  closeSync,
  fstatSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  unlinkSync,
  writeSync
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { FST_QUOTA_DIRECTORY_IN_USE } from '../../quota/errors.ts'
import { BEAT_MS, startHeartbeat } from './heartbeat.ts'
import { makePrivateDirectory } from './make-private-directory.ts'

const FILE = 'fastify-quota.pid'
const TAKEOVER = '.takeover'
/** Beats that an owner elsewhere may miss. Fastify gives a plugin 10 s, and the engine needs part of that. */
const MISSED_BEATS = 5
const LOOKS_PER_BEAT = 4

export type Unlock = () => Promise<void>

/** The state of a file when it was read. */
interface Sight {
  owner: string
  touchedMs: number
}

/**
 * The engine has no lock of its own: two processes opened one directory without complaint and lost 2 950 of 11 850 acknowledged rows. The
 * owner's pid tells whether it lives; where that means nothing, in another container or on another machine, its touching the file does.
 */
export async function lockDirectory(dir: string): Promise<Unlock> {
  makePrivateDirectory(dir)
  const file = join(dir, FILE)
  const fd = create(file) ?? takeOver(dir, file, await watchStrangers(dir))
  const release = () => {
    if (read(file)?.owner === ourselves()) takeAway(file)
    closeSync(fd)
  }
  const stop = await startHeartbeat(fd).catch(error => {
    release()
    throw error
  })
  return async () => {
    await stop()
    release()
  }
}

/**
 * A dead owner's file is removed under a lock of its own: of four processes that each unlinked what they had read before, up to four got
 * the directory, because the slower ones unlinked the file of the first. Never waits, so that it is over before a heartbeat is due.
 */
function takeOver(dir: string, file: string, untouched: ReadonlyMap<string, Sight>): number {
  refuseLiving(dir, file, untouched)
  const turnFile = file + TAKEOVER
  const turn = create(turnFile) ?? takeOver(dir, turnFile, untouched)
  try {
    refuseLiving(dir, file, untouched)
    takeAway(file)
    const fd = create(file)
    if (fd !== undefined) return fd
  } finally {
    takeAway(turnFile)
    closeSync(turn)
  }
  throw inUse(dir, read(file)?.owner)
}

/** The open file, or undefined where there is one already. It appears with its content: an empty one would look like a dead owner's. */
function create(file: string): number | undefined {
  // Not named by the pid, which may be the same in two containers.
  const draft = `${file}.${randomUUID()}`
  const fd = openSync(draft, 'wx')
  try {
    writeSync(fd, `${ourselves()}\n`)
    linkSync(draft, file)
    return fd
  } catch (error) {
    closeSync(fd)
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return undefined
    throw error
  } finally {
    takeAway(draft)
  }
}

function refuseLiving(dir: string, file: string, untouched: ReadonlyMap<string, Sight>): void {
  const sight = read(file)
  if (sight === undefined) return
  const isLiving = isHere(sight.owner) ? isAlive(sight.owner) : !isSame(sight, untouched.get(file))
  if (isLiving) throw inUse(dir, sight.owner)
}

/**
 * The files of owners elsewhere that nobody touched while we looked; none if anything moved. Their age says nothing: the clocks of two
 * machines differ.
 */
async function watchStrangers(dir: string): Promise<ReadonlyMap<string, Sight>> {
  const before = strangersIn(dir)
  for (let look = 0; before.size > 0 && look < MISSED_BEATS * LOOKS_PER_BEAT; look++) {
    await sleep(BEAT_MS / LOOKS_PER_BEAT)
    const now = strangersIn(dir)
    for (const [file, sight] of before) if (!isSame(sight, now.get(file))) return new Map()
  }
  return before
}

function strangersIn(dir: string): Map<string, Sight> {
  const strangers = new Map<string, Sight>()
  for (const name of readdirSync(dir)) {
    if (name.replaceAll(TAKEOVER, '') !== FILE) continue
    const file = join(dir, name)
    const sight = read(file)
    if (sight !== undefined && !isHere(sight.owner)) strangers.set(file, sight)
  }
  return strangers
}

/** Undefined where there is no file. It is opened, since only then may a network file system know when it was last touched. */
function read(file: string): Sight | undefined {
  let fd: number
  try {
    fd = openSync(file, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  try {
    return { touchedMs: fstatSync(fd).mtimeMs, owner: readFileSync(fd, 'utf8').trim() }
  } finally {
    closeSync(fd)
  }
}

const isSame = (one: Sight, other: Sight | undefined): boolean =>
  one.owner === other?.owner && one.touchedMs === other.touchedMs

/** The content of our file: the pid, when the process started, and where the two mean something. */
const ourselves = (): string => `${process.pid} ${startOf(process.pid)} ${placeOf()}`

/** Earlier versions wrote no place, and touched nothing: theirs are judged by the pid. */
function isHere(owner: string): boolean {
  const place = owner.split(' ')[2]
  return place === undefined || place === placeOf()
}

/** This boot of this machine, and the pid namespace in it; `-` for what the system does not tell. */
function placeOf(): string {
  const boot = tell(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim())
  return `${boot}/${tell(() => readlinkSync('/proc/self/ns/pid'))}`
}

/** Pids are reused: the process is the owner only if it also started when the owner did. */
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

function tell(what: () => string): string {
  try {
    return what()
  } catch {
    return '-'
  }
}

function inUse(dir: string, owner = ''): Error {
  const pid = owner.split(' ')[0] || 'unknown'
  const where = isHere(owner) ? '' : ' of another container or machine'
  return new FST_QUOTA_DIRECTORY_IN_USE(dir, pid + where)
}

function takeAway(file: string): void {
  try {
    unlinkSync(file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
