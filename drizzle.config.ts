// drizzle-kit for our tables alone: every other table of the database is the application's. It filters tables and views, not
// sequences and enum types, and a push would drop those it does not know: beside an application's own tables `fastify-quota init`
// is the safe way, or a schema of theirs that has both (examples/own-drizzle).
import { defineConfig } from 'drizzle-kit'

export default defineConfig({
  dialect: 'postgresql',
  schema: './src/store/schema.ts',
  out: './drizzle',
  // A negated pattern of its own (`!quota_migrations`) would match, and so let through, every table that it does not name.
  tablesFilter: ['quota_!(migrations)', 'usage_logs'],
  dbCredentials: { url: process.env.DATABASE_URL ?? '' }
})
