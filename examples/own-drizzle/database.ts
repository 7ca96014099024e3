// The application's own database, migrated: PostgreSQL where DATABASE_URL is set, else PGlite in a directory.
import { fileURLToPath } from 'node:url'
import { PGlite } from '@electric-sql/pglite'
import type { PgDatabase, PgQueryResultHKT } from 'drizzle-orm/pg-core'
import { drizzle as onPGlite } from 'drizzle-orm/pglite'
import { migrate as migratePGlite } from 'drizzle-orm/pglite/migrator'
import { drizzle as onPostgres } from 'drizzle-orm/postgres-js'
import { migrate as migratePostgres } from 'drizzle-orm/postgres-js/migrator'
import postgres from 'postgres'
import * as schema from './schema.ts'

export interface OpenDatabase {
  db: PgDatabase<PgQueryResultHKT, typeof schema>
  close(): Promise<void>
}

// Written by drizzle-kit from ./schema.ts: our tables come and change with the application's own.
const migrationsFolder = fileURLToPath(new URL('./migrations', import.meta.url))

export async function openDatabase(url = process.env.DATABASE_URL): Promise<OpenDatabase> {
  if (url) {
    const client = postgres(url, { onnotice: () => {} })
    const db = onPostgres(client, { schema })
    await migratePostgres(db, { migrationsFolder })
    return { db, close: () => client.end() }
  }
  const client = new PGlite('./notes-data')
  const db = onPGlite(client, { schema })
  await migratePGlite(db, { migrationsFolder })
  return { db, close: () => client.close() }
}
