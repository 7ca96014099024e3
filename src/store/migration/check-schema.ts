// Whether the database has the tables and columns that this version's statements name, however they got there.
import { getTableColumns, getTableName } from 'drizzle-orm'
import type { PgTable } from 'drizzle-orm/pg-core'
import type { Database } from '../database.ts'
import * as schema from '../schema.ts'

const COLUMNS = `
SELECT c.relname AS table, a.attname AS column
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.oid IN (SELECT to_regclass(name) FROM jsonb_array_elements_text($1::text::jsonb) AS name)`

export const tables: readonly PgTable[] = Object.values(schema)

/** What is missing, as `table` or `table.column`; empty when nothing is. */
export async function missingFromSchema(db: Pick<Database, 'query'>): Promise<string[]> {
  const rows = await db.query<{ table: string; column: string }>(COLUMNS, [JSON.stringify(tables.map(getTableName))])
  const found = new Map<string, Set<string>>()
  for (const row of rows) found.set(row.table, (found.get(row.table) ?? new Set()).add(row.column))
  return tables.flatMap(table => {
    const columns = found.get(getTableName(table))
    if (columns === undefined) return [`table ${getTableName(table)}`]
    const missing = Object.values(getTableColumns(table)).filter(column => !columns.has(column.name))
    return missing.map(column => `column ${getTableName(table)}.${column.name}`)
  })
}

export const tellMissing = (missing: readonly string[]): string => `${listed(missing)} missing`

/** The first three of them. */
export const listed = (items: readonly string[]): string =>
  `${items.slice(0, 3).join(', ')}${items.length > 3 ? ` and ${items.length - 3} more` : ''}`
