// Which of the shipped migrations the database has recorded as applied.
import { readMigrationFiles } from 'drizzle-orm/migrator'
import type { Database } from '../database.ts'
import { MIGRATIONS_FOLDER } from './migrate.ts'

/** The remedy for what is missing although all of them are recorded. */
export const RESTORE =
  'restore it from a backup (keys are in `pg_restore --section=post-data`), or create it by hand as the SQL in node_modules/fastify-quota/drizzle does, or with `npx drizzle-kit push`: the migrations are recorded as applied, and `init` does not apply them again'

export interface Migrations {
  /** How many this version ships. */
  shipped: number
  /** How many of them are recorded. None, with a complete schema: `drizzle-kit push` made it. */
  recorded: number
  /** Recorded, but not shipped with this version: a newer version was here. */
  unknown: number
}

/** Undefined where this role may not read the table, which only `init` needs to. */
export async function listMigrations(db: Database): Promise<Migrations | undefined> {
  const shipped = readMigrationFiles({ migrationsFolder: MIGRATIONS_FOLDER }).map(migration => migration.hash)
  // Null: there is no such table.
  const [table] = await db.query<{ readable: boolean | null }>(
    "SELECT has_table_privilege(to_regclass('quota_migrations'), 'SELECT') AS readable"
  )
  if (table?.readable === false) return undefined
  const rows = table?.readable ? await db.query<{ hash: string }>('SELECT hash FROM quota_migrations') : []
  const recorded = rows.filter(row => shipped.includes(row.hash)).length
  return { shipped: shipped.length, recorded, unknown: rows.length - recorded }
}
