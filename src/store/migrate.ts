// Brings the tables to this version: the shipped migrations, one process at a time.
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { sql } from 'drizzle-orm'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import { missingFromSchema } from './check-schema.ts'
import { type Database, type Orm, stateOf, storeError } from './database.ts'

/** Found from this module, not from the working directory. */
export const MIGRATIONS_FOLDER = fileURLToPath(new URL('../../drizzle', import.meta.url))

/** Of five processes that booted on an empty database through Drizzle's own migrator, which takes no lock, four failed. */
const LOCK = 7_310_584_209_461

/**
 * A migration waits no longer for a table that servers use: all their statements would queue up behind it, and those that hold another table
 * that it needs would wait for it in a circle. It lets go of everything, and tries again.
 */
const LOCK_PATIENCE_MS = 50
const PAUSE_MS = 100
/** Somebody keeps a table for longer than statements do, such as pg_dump. */
const GIVE_UP_AFTER_MS = 30_000

/** Applies what is not applied yet; how many. Rejects with FST_QUOTA_STORE where the database refuses one, which is then not applied at all. */
export async function migrate(db: Database): Promise<number> {
  // `drizzle-kit push` makes the same tables without writing down that it did.
  const isPushed = (await missingFromSchema(db)).length === 0
  let applied = 0
  while (await withPatience(() => applyNext(db, isPushed))) applied += 1
  return applied
}

/** Tries again where a lock was not to be had (55P03), or was waited for in a circle (40P01). */
async function withPatience<T>(work: () => Promise<T>): Promise<T> {
  const end = performance.now() + GIVE_UP_AFTER_MS
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!/^(55P03|40P01)$/.test(stateOf(error) ?? '') || performance.now() >= end) throw storeError(error)
      await sleep(PAUSE_MS * (0.5 + Math.random()))
    }
  }
}

/** Without a primary key; a publication refuses DELETE and UPDATE of what has no identity either. drizzle-kit has no word for it: a push leaves it out. */
const KEYED_BY_INDEX = ['quota_rollups', 'quota_usage_days', 'quota_usage_totals', 'quota_usage_marks']

/** One a transaction, which so holds no table from the migration before it: all in one deadlocked with the servers that served meanwhile. */
async function applyNext(db: Database, isPushed: boolean): Promise<boolean> {
  return await db.orm.transaction(async (tx: Orm) => {
    await tx.execute(sql`SELECT pg_advisory_xact_lock(${sql.raw(String(LOCK))})`)
    // Without a sequence: drizzle-kit filters tables, not sequences, and a push would try to drop it.
    await tx.execute(
      sql`CREATE TABLE IF NOT EXISTS quota_migrations (hash text PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now())`
    )
    const applied = await appliedHashes(tx)
    const pending = readMigrationFiles({ migrationsFolder: MIGRATIONS_FOLDER }).filter(({ hash }) => !applied.has(hash))
    const write = ({ hash }: { hash: string }) => tx.execute(sql`INSERT INTO quota_migrations (hash) VALUES (${hash})`)
    if (isPushed && applied.size === 0) {
      for (const migration of pending) await write(migration)
      for (const table of KEYED_BY_INDEX)
        await tx.execute(sql.raw(`ALTER TABLE ${table} REPLICA IDENTITY USING INDEX ${table}_key`))
      return false
    }
    const [next] = pending
    if (next === undefined) return false
    await tx.execute(sql.raw(`SET LOCAL lock_timeout = ${LOCK_PATIENCE_MS}`))
    for (const statement of next.sql) await tx.execute(sql.raw(statement))
    await write(next)
    return true
  })
}

async function appliedHashes(tx: Orm): Promise<Set<string>> {
  const result: unknown = await tx.execute(sql`SELECT hash FROM quota_migrations`)
  const rows = (Array.isArray(result) ? result : (result as { rows: unknown[] }).rows) as { hash: string }[]
  return new Set(rows.map(row => row.hash))
}
