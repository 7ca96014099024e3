// Brings the tables to this version: the shipped migrations, one process at a time.
import { fileURLToPath } from 'node:url'
import { sql } from 'drizzle-orm'
import { readMigrationFiles } from 'drizzle-orm/migrator'
import { missingFromSchema } from './check-schema.ts'
import type { Database, Orm } from './database.ts'

/** Found from this module, not from the working directory. */
export const MIGRATIONS_FOLDER = fileURLToPath(new URL('../../drizzle', import.meta.url))

/** Of five processes that booted on an empty database through Drizzle's own migrator, which takes no lock, four failed. */
const LOCK = 7_310_584_209_461

/** Applies what is not applied yet; how many. */
export async function migrate(db: Database): Promise<number> {
  // `drizzle-kit push` makes the same tables without writing down that it did.
  const isPushed = (await missingFromSchema(db)).length === 0
  let applied = 0
  while (await applyNext(db, isPushed)) applied += 1
  return applied
}

/**
 * One a transaction: each locks the tables it changes in the order in which statements lock them, and holds none from the migration before
 * it. All in one deadlocked with the servers that were being served meanwhile.
 */
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
      return false
    }
    const [next] = pending
    if (next === undefined) return false
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
