// Missing constraints and indexes whose absence makes no statement fail: safety nets, and what makes reading quick.
import { getTableName } from 'drizzle-orm'
import { getTableConfig, type PgTable } from 'drizzle-orm/pg-core'
import type { Database } from '../database.ts'
import { columnsOf, KEYLESS, named, tables } from './check-schema.ts'

/** SQL: the names of the columns with these numbers, in their order, as a text. */
const columnNames = (numbers: string): string => `(
  SELECT string_agg(coalesce(a.attname, ''), ', ' ORDER BY k.n)
    FROM unnest(${numbers}) WITH ORDINALITY AS k (attnum, n) LEFT JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum = k.attnum)`

/** Foreign keys and indexes are identified by their columns, checks by their names: PostgreSQL words their expressions differently. */
const NETS = `
WITH ours AS MATERIALIZED (
  SELECT c.oid, c.relname FROM jsonb_array_elements_text($1::text::jsonb) AS n (name) JOIN pg_class c ON c.oid = to_regclass(n.name)
)
SELECT o.relname AS table, 'check' AS kind, c.conname::text AS name
  FROM ours o JOIN pg_constraint c ON c.conrelid = o.oid AND c.contype = 'c'
UNION ALL
SELECT o.relname, 'foreign key', ${columnNames('c.conkey')} || ' ' || f.relname || CASE c.confdeltype WHEN 'c' THEN ' cascade' ELSE '' END
  FROM ours o JOIN pg_constraint c ON c.conrelid = o.oid AND c.contype = 'f' JOIN pg_class f ON f.oid = c.confrelid
UNION ALL
SELECT o.relname, 'index', ${columnNames('i.indkey::int2[]')}
  FROM ours o JOIN pg_index i ON i.indrelid = o.oid AND i.indisvalid AND i.indpred IS NULL`

interface NetRow {
  table: string
  kind: 'check' | 'foreign key' | 'index'
  name: string
}

export interface MissingNets {
  /** Foreign keys that delete what a user has along with the user. */
  cascades: string[]
  /** Checks and the other foreign keys, by name. */
  constraints: string[]
  indexes: string[]
}

/** Of tables that exist. */
export async function missingNets(db: Pick<Database, 'query'>): Promise<MissingNets> {
  const rows = await db.query<NetRow>(NETS, [JSON.stringify(tables.map(getTableName))])
  const missing: MissingNets = { cascades: [], constraints: [], indexes: [] }
  for (const table of tables) {
    const of = (kind: NetRow['kind']) =>
      rows.flatMap(row => (row.table === getTableName(table) && row.kind === kind ? [row.name] : []))
    const [checks, foreignKeys, indexes] = [of('check'), of('foreign key'), of('index')]
    for (const { name } of getTableConfig(table).checks) if (!checks.includes(name)) missing.constraints.push(name)
    for (const { name, what, isCascade } of foreignKeysOf(table)) {
      if (isCascade && !foreignKeys.includes(`${what} cascade`)) missing.cascades.push(name)
      if (!isCascade && !foreignKeys.some(found => found === what || found === `${what} cascade`))
        missing.constraints.push(name)
    }
    // An index with more columns after ours serves as well.
    for (const { name, columns } of indexesOf(table))
      if (!indexes.some(found => `${found}, `.startsWith(`${columns}, `))) missing.indexes.push(name)
  }
  return missing
}

const foreignKeysOf = (table: PgTable) =>
  getTableConfig(table).foreignKeys.map(key => {
    const { columns, foreignTable } = key.reference()
    const what = `${named(columns)} ${getTableName(foreignTable)}`
    return { name: key.getName(), what, isCascade: key.onDelete === 'cascade' }
  })

/** Indexes that are not keys, and keys that no statement needs. */
function indexesOf(table: PgTable): { name: string; columns: string }[] {
  const name = getTableName(table)
  const { indexes, primaryKeys } = getTableConfig(table)
  const plain = indexes.filter(({ config }) => KEYLESS.has(name) || !config.unique)
  return [
    ...(KEYLESS.has(name) ? primaryKeys.map(key => ({ name: key.getName(), columns: named(key.columns) })) : []),
    ...plain.map(index => ({ name: String(index.config.name), columns: named(columnsOf(index)) }))
  ]
}
