// Our tables whose rows logical replication cannot identify: they have no primary key, and nothing was named instead.
import { getTableName } from 'drizzle-orm'
import type { Database } from '../database.ts'
import * as schema from '../schema.ts'

const LIST = `
SELECT c.relname AS table,
       EXISTS (SELECT 1 FROM pg_publication_tables p WHERE p.schemaname = c.relnamespace::regnamespace::text AND p.tablename = c.relname) AS published
  FROM pg_class c
 WHERE c.oid IN (SELECT to_regclass(name) FROM jsonb_array_elements_text($1::text::jsonb) AS name) AND c.relreplident IN ('d', 'n')
   AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
 ORDER BY c.relname`

interface Unidentified {
  table: string
  /** True: PostgreSQL refuses UPDATE and DELETE on it. */
  published: boolean
}

export const listUnidentified = (db: Database): Promise<Unidentified[]> =>
  db.query<Unidentified>(LIST, [JSON.stringify(Object.values(schema).map(getTableName))])
