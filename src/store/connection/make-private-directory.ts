// The embedded database's directory is for its owner only, as initdb makes it: the engine leaves its files open to everybody.
import { chmodSync, existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname } from 'node:path'

const OF_OTHERS = 0o077
/** Set on a directory that is meant for everybody, such as /tmp. */
const STICKY = 0o1000

/** Creates it if it is missing; one of ours that is open to the group or to others is closed to them. */
export function makePrivateDirectory(dir: string): void {
  makeDirectory(dir, 0o700)
  const { mode, uid } = statSync(dir)
  // Windows has no such owner, and no such bits.
  if (uid !== process.getuid?.() || (mode & OF_OTHERS) === 0 || (mode & STICKY) !== 0) return
  try {
    chmodSync(dir, mode & 0o7777 & ~OF_OTHERS)
  } catch {
    // A file system without modes, such as a network share or a USB stick: there the mount says who reads it.
  }
}

/** With its parents. Node's own way (`recursive`) tries forever below a directory that takes none, such as /proc. */
function makeDirectory(dir: string, mode?: number): void {
  try {
    mkdirSync(dir, { mode })
  } catch (error) {
    if (statSync(dir, { throwIfNoEntry: false })?.isDirectory()) return
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || existsSync(dirname(dir))) throw error
    makeDirectory(dirname(dir))
    makeDirectory(dir, mode)
  }
}
