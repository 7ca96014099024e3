// `npx drizzle-kit generate --config examples/own-drizzle/drizzle.config.ts` writes the next migration.
import { defineConfig } from 'drizzle-kit'

export default defineConfig({
  dialect: 'postgresql',
  schema: './examples/own-drizzle/schema.ts',
  out: './examples/own-drizzle/migrations',
  // `fastify-quota init` makes it, to know what is applied; a push would drop what the schema does not have.
  tablesFilter: ['!quota_migrations']
})
