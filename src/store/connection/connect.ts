// From the option `connection` to a database that is ready: a URL, a directory, or the application's own Drizzle database.
import { entityKind, is } from 'drizzle-orm'
import { PgDatabase } from 'drizzle-orm/pg-core'
import { FST_QUOTA_CONNECTION } from '../../quota/errors.ts'
import { refuseUnknown } from '../../quota/option.ts'
import { type Database, type Driver, type Orm, openDatabase, runThrough } from '../database.ts'
import { missingFromSchema } from '../migration/check-schema.ts'
import { migrate } from '../migration/migrate.ts'
import { requireApart } from './check-transactions.ts'
import { connectEmbedded, DEADLINE_MS as ENGINE_DEADLINE_MS } from './connect-embedded.ts'
import { connectServer, type Patience, requireReady } from './connect-server.ts'
import { DEFAULT_DIRECTORY } from './default-directory.ts'
import { transactThrough } from './drizzle-transaction.ts'
import type { ServerConnection } from './server-url.ts'

/**
 * - a URL: `postgres://user:password@host:5432/database`; its query may have options of postgres.js (`?sslmode=require&max=5`) and settings of the
 *   server; what only libpq or Prisma knows is left out
 * - `{ url, … }`: the same with options of postgres.js (`max`, `ssl`, `prepare` …)
 * - `{ dataDir }`: the embedded database in this directory, for one process
 * - a Drizzle database of yours, on a pool of any PostgreSQL driver, or on PGlite, where the tables are created; it stays yours, and is not closed
 */
export type Connection = string | ServerConnection | { dataDir: string } | Orm

/** Opens it, and makes sure that the tables are there. Embedded ones are migrated; a server's are the operator's to migrate. */
export async function connect(connection: Connection | undefined, patience?: Patience): Promise<Database> {
  const db = await open(connection, patience)
  try {
    if (db.kind === 'drizzle' && db.orm && isInProcess(db.orm) && (await missingFromSchema(db)).length > 0)
      await migrate(db)
    if (db.kind !== 'embedded') await requireReady(db)
    if (db.kind === 'drizzle') await requireApart(db)
    return db
  } catch (error) {
    await db.close().catch(() => {})
    throw error
  }
}

/** For the application's own database, for what no request waits for. */
const DEADLINE_MS = 2_000

/** An engine within the application's own process: no command of ours can reach it. */
const isInProcess = (orm: Orm): boolean =>
  (orm.constructor as { [entityKind]?: string })[entityKind] === 'PgliteDatabase'

/** Opens it without looking for its tables: for those who are about to make them. `deadlineMs` may be long where nobody waits for a reply. */
export async function open(
  connection: Connection | undefined = process.env.DATABASE_URL || { dataDir: DEFAULT_DIRECTORY },
  patience: Patience = {}
): Promise<Database> {
  if (typeof connection === 'string') return connectServer({ url: connection }, patience)
  if (typeof connection !== 'object' || connection === null)
    throw new FST_QUOTA_CONNECTION('must be a postgres:// URL, { dataDir } or a Drizzle database')
  if (is(connection, PgDatabase)) {
    const transact: Driver['transact'] = (mode, work) => transactThrough(connection, mode, work)
    const deadlineMs = isInProcess(connection) ? ENGINE_DEADLINE_MS : DEADLINE_MS
    return openDatabase(
      'drizzle',
      connection,
      { run: runThrough(connection), transact, close: async () => {} },
      deadlineMs
    )
  }
  if ('dataDir' in connection) {
    if (typeof connection.dataDir !== 'string' || connection.dataDir === '')
      throw new FST_QUOTA_CONNECTION('must name a directory as its dataDir')
    refuseUnknown('connection', connection, ['dataDir'])
    return await connectEmbedded(connection.dataDir)
  }
  if ('url' in connection && typeof connection.url === 'string') return connectServer(connection, patience)
  throw new FST_QUOTA_CONNECTION(
    'must be a postgres:// URL, { url, … }, { dataDir } or a Drizzle database of a PostgreSQL driver'
  )
}
