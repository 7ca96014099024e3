// Brings the tables to this version: the shipped migrations, one process at a time.
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import { FST_QUOTA_SCHEMA } from '../../quota/errors.ts'
import { type Database, type Query, stateOf, transaction } from '../database.ts'
import { missingFromSchema, tellMissing } from './check-schema.ts'

/** Found from this module, not from the working directory. */
export const MIGRATIONS_FOLDER = fileURLToPath(new URL('../../../drizzle', import.meta.url))

/** Of five processes that booted on an empty database through Drizzle's own migrator, which takes no lock, four failed. */
const LOCK = 7_310_584_209_461

/**
 * How long a migration waits for a table that servers use: their statements would all queue up behind it, and those that hold another table
 * it needs would deadlock with it. It then lets go of everything, and tries again.
 */
const LOCK_PATIENCE_MS = 50
const PAUSE_MS = 100
/** Something such as pg_dump holds a table for longer than statements do. */
const GIVE_UP_AFTER_MS = 30_000
/** As long as it takes, once it has begun. */
const DEADLINE_MS = 2 ** 31 - 1

/**
 * Applies what is not applied yet; returns how many. Rejects with FST_QUOTA_STORE where the database refuses a migration, which is then not
 * applied at all, and with FST_QUOTA_SCHEMA where the tables were made in another way and are of another version.
 */
export async function migrate(db: Database): Promise<number> {
  let applied = 0
  for (;;) {
    const done = await withPatience(() => applyNext(db))
    if (done === undefined) return applied
    if (done === 'applied') applied += 1
  }
}

/** Tries again where a lock was not available (55P03), or after a deadlock (40P01). */
async function withPatience<T>(work: () => Promise<T>): Promise<T> {
  const end = performance.now() + GIVE_UP_AFTER_MS
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!/^(55P03|40P01)$/.test(stateOf(error) ?? '') || performance.now() >= end)
        throw (error as Error).cause instanceof FST_QUOTA_SCHEMA ? (error as Error).cause : error
      await sleep(PAUSE_MS * (0.5 + Math.random()))
    }
  }
}

/** One per transaction, which thus holds no table from the migration before it: all in one deadlocked with the servers that ran meanwhile. */
function applyNext(db: Database): Promise<'applied' | 'recorded' | undefined> {
  const work = async (query: Query) => {
    await query(`SELECT pg_advisory_xact_lock(${LOCK})`)
    const applied = await appliedHashes(query)
    const next = readMigrationFiles({ migrationsFolder: MIGRATIONS_FOLDER }).find(({ hash }) => !applied.has(hash))
    // Before anything is created: a role that may only read and write rows comes here too.
    if (next === undefined) return undefined
    await query(STAY_WITH_THE_TABLES)
    // Without a sequence: drizzle-kit filters tables, not sequences, and a push would try to drop it.
    await query(
      'CREATE TABLE IF NOT EXISTS quota_migrations (hash text PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now())'
    )
    await query(`SET LOCAL lock_timeout = ${LOCK_PATIENCE_MS}`)
    const isNew = await apply(query, next.sql)
    await query('INSERT INTO quota_migrations (hash) VALUES ($1)', [next.hash])
    return isNew ? 'applied' : 'recorded'
  }
  return transaction(db, work, DEADLINE_MS)
}

/** Where the tables are in a schema of the search_path other than its first, new ones are created there too. */
const STAY_WITH_THE_TABLES = `
SELECT set_config('search_path', relnamespace::regnamespace || ', ' || current_setting('search_path'), true)
  FROM pg_class WHERE oid = to_regclass('quota_types')`

/** What is to be created exists already, or what is to be dropped is gone. */
const DONE_ALREADY = /^(42P07|42710|42701|42P01|42703|42704)$/

/**
 * False where its work is already done: `drizzle-kit push` and an application's own migrations do the same without recording it. The
 * columns alone would not tell, for a migration may be about an index or a constraint; so it is tried.
 */
async function apply(query: Query, statements: readonly string[]): Promise<boolean> {
  await query('SAVEPOINT migration')
  try {
    for (const statement of statements) await query(inAnySchema(statement))
    return true
  } catch (error) {
    if (!DONE_ALREADY.test(stateOf(error) ?? '')) throw error
    // Its statements that succeeded are undone too: all of it, or nothing. What is missing then is an error.
    await query('ROLLBACK TO SAVEPOINT migration')
    const missing = await missingFromSchema({ query })
    if (missing.length > 0) throw new FST_QUOTA_SCHEMA(tellMissing(missing), OF_ANOTHER_VERSION)
    return false
  }
}

const OF_ANOTHER_VERSION =
  'There are tables that `init` has not recorded and that do not match this version: update them with the drizzle-kit that made them (its migrations, or its push), then run `npx fastify-quota init --schema-only`'

/**
 * drizzle-kit writes foreign keys to "public", but the tables themselves to wherever the search_path says. The files stay as they are:
 * their hashes are recorded.
 */
const inAnySchema = (statement: string): string => statement.replaceAll('REFERENCES "public".', 'REFERENCES ')

async function appliedHashes(query: Query): Promise<Set<string>> {
  const [table] = await query<{ exists: boolean }>("SELECT to_regclass('quota_migrations') IS NOT NULL AS exists")
  const rows = table?.exists ? await query<{ hash: string }>('SELECT hash FROM quota_migrations') : []
  return new Set(rows.map(row => row.hash))
}
