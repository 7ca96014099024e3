// Whether the database has the tables, columns and keys that this version's statements name, however they got there.
import { getTableColumns, getTableName } from 'drizzle-orm'
import { getTableConfig, type PgTable } from 'drizzle-orm/pg-core'
import type { Database } from '../database.ts'
import * as schema from '../schema.ts'

/** A key is an index that ON CONFLICT can use: one that is checked at the transaction's end is none, nor is one that was not fully built. */
const SHAPE = `
WITH ours AS MATERIALIZED (
  SELECT c.oid, c.relname FROM jsonb_array_elements_text($1::text::jsonb) AS n (name) JOIN pg_class c ON c.oid = to_regclass(n.name)
)
SELECT o.relname AS table, false AS is_key, a.attname::text AS name, a.attnum::int AS n
  FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT o.relname, true, i.indkey::text, i.indnkeyatts::int
  FROM ours o JOIN pg_index i ON i.indrelid = o.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL`

/** A column and its number; or the column numbers of a key, and how many of them count. */
interface ShapeRow {
  table: string
  is_key: boolean
  name: string
  n: number
}

export const tables: readonly PgTable[] = Object.values(schema)

/** The columns that no two rows may have in common. */
function keysOf(table: PgTable): { kind: string; columns: string }[] {
  const { columns, primaryKeys, uniqueConstraints, indexes } = getTableConfig(table)
  const primary = [...columns.filter(column => column.primary).map(column => [column]), ...primaryKeys.map(columnsIn)]
  const unique = [
    ...columns.filter(column => column.isUnique).map(column => [column]),
    ...uniqueConstraints.map(columnsIn),
    ...indexes.filter(({ config }) => config.unique).map(columnsOf)
  ]
  return [
    ...primary.map(columns => ({ kind: 'primary key', columns: named(columns) })),
    ...unique.map(columns => ({ kind: 'unique index', columns: named(columns) }))
  ]
}

type Index = ReturnType<typeof getTableConfig>['indexes'][number]
type Named = readonly { name: string }[]

const columnsIn = ({ columns }: { columns: Named }): Named => columns
export const columnsOf = ({ config }: Index): Named => config.columns as { name: string }[]
export const named = (columns: Named): string => columns.map(column => column.name).join(', ')

/** No statement needs the key of these: without it they are only read more slowly. */
export const KEYLESS: ReadonlySet<string> = new Set(['quota_audit_logs', 'quota_usage_marks'])

/**
 * What is missing, as `table …`, `column table.column` or `primary key table (columns)`; empty when nothing is. Keys are identified by
 * their columns, in any order: those of a partitioned log have other names.
 */
export async function missingFromSchema(db: Pick<Database, 'query'>): Promise<string[]> {
  const rows = await db.query<ShapeRow>(SHAPE, [JSON.stringify(tables.map(getTableName))])
  return tables.flatMap(table => {
    const name = getTableName(table)
    const ofIt = rows.filter(row => row.table === name)
    const columns = new Map(ofIt.filter(row => !row.is_key).map(row => [row.n, row.name]))
    if (columns.size === 0) return [`table ${name}`]
    const there = new Set(columns.values())
    const keys = new Set(ofIt.filter(row => row.is_key).map(row => inAnyOrder(columnsOfKey(row, columns))))
    const wanted = KEYLESS.has(name) ? [] : keysOf(table)
    return [
      ...Object.values(getTableColumns(table)).flatMap(column =>
        there.has(column.name) ? [] : [`column ${name}.${column.name}`]
      ),
      ...wanted.flatMap(({ kind, columns }) => (keys.has(inAnyOrder(columns)) ? [] : [`${kind} ${name} (${columns})`]))
    ]
  })
}

/** An expression has no number. */
const columnsOfKey = ({ name, n }: ShapeRow, columns: ReadonlyMap<number, string>): string =>
  name
    .split(' ')
    .slice(0, n)
    .map(number => columns.get(Number(number)) ?? '')
    .join(', ')

const inAnyOrder = (columns: string): string => columns.split(', ').sort().join(', ')

export const tellMissing = (missing: readonly string[]): string => `${listed(missing)} missing`

/** The first three of them. */
export const listed = (items: readonly string[]): string =>
  `${items.slice(0, 3).join(', ')}${items.length > 3 ? ` and ${items.length - 3} more` : ''}`
