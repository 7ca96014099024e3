// The embedded engine: PostgreSQL inside this process, in a directory, for development, tests and small deployments.
import { resolve } from 'node:path'
import { FST_QUOTA_DIRECTORY_UNREADABLE } from '../../quota/errors.ts'
import { type Database, type Driver, openDatabase, type Values } from '../database.ts'
import { migrate } from '../migration/migrate.ts'
import { transactThrough } from './drizzle-transaction.ts'
import { lockDirectory, type Unlock } from './lock-directory.ts'

/** The engine is one connection, and a statement in it cannot be cut short: the deadline is only there for a hang. */
export const DEADLINE_MS = 30_000

interface Shared {
  database: Promise<Database>
  users: number
  /** Since the last of them left. */
  closing?: Promise<void>
}

/** Registrations of one process share a directory; another process is refused. */
const open = new Map<string, Shared>()

/** Opens the directory and brings its tables to this version. `memory://` keeps nothing. */
export async function connectEmbedded(dataDir: string): Promise<Database> {
  if (dataDir === 'memory://') return await start(dataDir, async () => {})
  const dir = resolve(dataDir)
  // This process itself may still be closing it, as between two tests.
  await open.get(dir)?.closing?.catch(() => {})
  const shared = open.get(dir) ?? { database: start(dir, lockDirectory(dir)), users: 0 }
  open.set(dir, shared)
  shared.users += 1
  try {
    const database = await shared.database
    let closing: Promise<void> | undefined
    return {
      ...database,
      // Closing twice must not close what another registration still uses.
      close: () => {
        closing ??= leave(dir, shared, database)
        return closing
      }
    }
  } catch (error) {
    open.delete(dir)
    throw error
  }
}

async function start(dataDir: string, locked: Unlock | Promise<Unlock>): Promise<Database> {
  const unlock = await locked
  const database = await openEngine(dataDir, unlock).catch(async error => {
    await unlock()
    throw error
  })
  try {
    await migrate(database)
    return database
  } catch (error) {
    // Else another process could open the directory while the engine still has it.
    await database.close().catch(() => {})
    throw error
  }
}

async function openEngine(dataDir: string, unlock: Unlock): Promise<Database> {
  // Loaded when it is used: it is heavy, and production does without it.
  const [{ PGlite }, { drizzle }] = await Promise.all([import('@electric-sql/pglite'), import('drizzle-orm/pglite')])
  const client = await PGlite.create(dataDir).catch(error => {
    if (dataDir === 'memory://') throw error
    // Of a damaged file the engine says no more than that it was aborted.
    const why = String((error as Error)?.message ?? error).replace(/\.$/, '')
    throw new FST_QUOTA_DIRECTORY_UNREADABLE(dataDir, why, { cause: error })
  })
  const close = async () => {
    await client.close()
    await unlock()
  }
  const run = (text: string, values: Values) => client.query(text, [...values])
  const orm = drizzle(client)
  const transact: Driver['transact'] = (mode, work) => transactThrough(orm, mode, work)
  return openDatabase('embedded', orm, { run, transact, close }, DEADLINE_MS)
}

async function leave(dir: string, shared: Shared, database: Database): Promise<void> {
  shared.users -= 1
  if (shared.users > 0) return
  shared.closing = database.close().finally(() => open.delete(dir))
  await shared.closing
}
