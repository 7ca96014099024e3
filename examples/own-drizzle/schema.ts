// The application's own tables, and those of the quotas: one schema, one migration history.
import { index, integer, pgTable, text } from 'drizzle-orm/pg-core'

export * from 'fastify-quota/schema'

export const notes = pgTable(
  'notes',
  {
    id: integer('id').primaryKey().generatedAlwaysAsIdentity(),
    owner: text('owner').notNull(),
    text: text('text').notNull()
  },
  t => [index('notes_owner_idx').on(t.owner)]
)
