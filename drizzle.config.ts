// drizzle-kit for our tables alone: all else in the database is the application's.
import { defineConfig } from 'drizzle-kit'
import { getTableName } from 'drizzle-orm'
import * as schema from './src/store/schema.ts'

// What is the application's is of no concern to a migration.
const isPush = process.argv.find(word => /^(generate|export|push)$/.test(word)) === 'push'

export default defineConfig({
  dialect: 'postgresql',
  // The filter below is for tables: a push would drop the sequences and enum types that it does not find in a schema file.
  schema: ['./src/store/schema.ts', ...(isPush ? ['./drizzle.neighbours.cjs'] : [])],
  schemaFilter: ['public'],
  out: './drizzle',
  // Each by its name: a pattern would take an application's own `quota_plans` for ours, and drop it. Without `quota_migrations`.
  tablesFilter: Object.values(schema).map(getTableName),
  dbCredentials: { url: process.env.DATABASE_URL ?? '' }
})
