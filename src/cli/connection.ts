// Which database a command works on: by its flags, else by the environment.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { FST_QUOTA_CONNECTION, FST_QUOTA_UNREACHABLE } from '../quota/errors.ts'
import { readConnection } from '../server/settings.ts'
import { open } from '../store/connection/connect.ts'
import { explainConnection } from '../store/connection/explain.ts'
import { labelServer } from '../store/connection/server-url.ts'
import type { Database } from '../store/database.ts'
import { type Flag, text, UsageError, type Values } from './command.ts'

export const CONNECTION_FLAGS: Readonly<Record<string, Flag>> = {
  'database-url': {
    type: 'string',
    value: 'URL',
    help: 'PostgreSQL; others can see it in the process list, so put a password in DATABASE_URL.'
  },
  'data-dir': {
    type: 'string',
    value: 'DIR',
    help: 'The embedded database in this directory, even if DATABASE_URL is set.'
  }
}

/** Nobody waits for a reply here, and a whole table may have to be read. */
const DEADLINE_MS = 10 * 60_000

export interface Target {
  connection: string | { dataDir: string }
  /** For messages: without the password. */
  label: string
  /** Where it was given. */
  source: '--database-url' | 'DATABASE_URL' | 'embedded'
}

export function readTarget(values: Values): Target {
  const url = text(values, 'database-url')
  const dataDir = text(values, 'data-dir')
  if (url !== undefined && dataDir !== undefined)
    throw new UsageError('--database-url and --data-dir name two databases; give one of them.')
  const connection = url ?? (dataDir === undefined ? readConnection(process.env) : { dataDir })
  if (typeof connection !== 'string')
    return { connection, label: `the embedded database in ${connection.dataDir}`, source: 'embedded' }
  return { connection, label: labelServer(connection), source: url === undefined ? 'DATABASE_URL' : '--database-url' }
}

/** An embedded database is brought to this version, as at each start of an application. */
async function openTarget({ connection, source }: Target): Promise<Database> {
  try {
    return await open(connection, { deadlineMs: DEADLINE_MS })
  } catch (error) {
    throw new Error(explainConnection(error, source), { cause: error })
  }
}

/** Opens it for as long as `work` takes. An error of the connection names where it was given. */
export async function withTarget<T>(target: Target, work: (db: Database) => Promise<T>): Promise<T> {
  const db = await openTarget(target)
  try {
    return await work(db)
  } catch (error) {
    const isConnection = error instanceof FST_QUOTA_CONNECTION || error instanceof FST_QUOTA_UNREACHABLE
    throw isConnection ? new Error(explainConnection(error, target.source), { cause: error }) : error
  } finally {
    await db.close()
  }
}

/** What a command looks at does not exist. */
export class NoDatabase extends Error {}

/** A command that only looks must not create an empty database. */
export function requireEmbedded({ connection }: Target): void {
  if (typeof connection !== 'string' && !existsSync(join(connection.dataDir, 'PG_VERSION')))
    throw new NoDatabase(
      `There is no embedded database in ${connection.dataDir}. Name its directory with --data-dir, set DATABASE_URL, or make one with \`fastify-quota init\`.`
    )
}
