// Brings the tables to this version: the shipped migrations, in one transaction, one process at a time.
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
  return await db.orm.transaction(async (tx: Orm) => {
    await tx.execute(sql`SELECT pg_advisory_xact_lock(${sql.raw(String(LOCK))})`)
    // Without a sequence: drizzle-kit filters tables, not sequences, and a push would try to drop it.
    await tx.execute(
      sql`CREATE TABLE IF NOT EXISTS quota_migrations (hash text PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now())`
    )
    const applied = await appliedHashes(tx)
    const pending = readMigrationFiles({ migrationsFolder: MIGRATIONS_FOLDER }).filter(
      migration => !applied.has(migration.hash)
    )
    const isBaseline = isPushed && applied.size === 0
    for (const migration of pending) {
      if (!isBaseline) for (const statement of migration.sql) await tx.execute(sql.raw(statement))
      await tx.execute(sql`INSERT INTO quota_migrations (hash) VALUES (${migration.hash})`)
    }
    return isBaseline ? 0 : pending.length
  })
}

async function appliedHashes(tx: Orm): Promise<Set<string>> {
  const result: unknown = await tx.execute(sql`SELECT hash FROM quota_migrations`)
  const rows = (Array.isArray(result) ? result : (result as { rows: unknown[] }).rows) as { hash: string }[]
  return new Set(rows.map(row => row.hash))
}
