// drizzle-kit for our tables alone: every other table of the database is the application's. It filters tables and views, not
// sequences and enum types, and a push would drop those it does not know: beside an application's own tables `fastify-quota init`
// is the safe way, or a schema of theirs that has both (examples/own-drizzle).
import { defineConfig } from 'drizzle-kit'
import { getTableName } from 'drizzle-orm'
import * as schema from './src/store/schema.ts'

export default defineConfig({
  dialect: 'postgresql',
  schema: './src/store/schema.ts',
  out: './drizzle',
  // Each by its name: a pattern would take an application's own `quota_plans` for ours, and drop it. Without `quota_migrations`.
  tablesFilter: Object.values(schema).map(getTableName),
  dbCredentials: { url: process.env.DATABASE_URL ?? '' }
})
