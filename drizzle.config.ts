// drizzle-kit for our tables alone: every other table of the database is the application's.
import { defineConfig } from 'drizzle-kit'

export default defineConfig({
  dialect: 'postgresql',
  schema: './src/store/schema.ts',
  out: './drizzle',
  tablesFilter: ['quota_*', 'usage_logs', '!quota_migrations'],
  dbCredentials: { url: process.env.DATABASE_URL ?? '' }
})
