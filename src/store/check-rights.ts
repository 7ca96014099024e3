// Whether the role we log in as may do what our statements do: without one right each request would be answered 503.
import { getTableName } from 'drizzle-orm'
import { listed, tables } from './check-schema.ts'
import type { Database } from './database.ts'

const ALL = ['SELECT', 'INSERT', 'UPDATE', 'DELETE']

/** Of the others nothing is changed, or nothing deleted but by a foreign key, which the tables' owner does. */
const LESS: Readonly<Record<string, readonly string[]>> = {
  usage_logs: ['SELECT', 'INSERT', 'DELETE'],
  quota_audit_logs: ['SELECT', 'INSERT'],
  quota_types: ['SELECT', 'INSERT', 'UPDATE'],
  quota_limits: ['SELECT', 'INSERT', 'UPDATE'],
  quota_periods: ['SELECT', 'INSERT', 'UPDATE'],
  quota_idempotency_keys: ['SELECT', 'INSERT', 'DELETE'],
  quota_usage_marks: ['SELECT', 'INSERT', 'DELETE']
}

const needed = JSON.stringify(
  Object.fromEntries(tables.map(getTableName).map(table => [table, LESS[table] ?? ALL] as const))
)

/** A right may be given column by column, but for DELETE. */
const LACKING = `
SELECT n.table, r.right, current_user::text AS role
  FROM jsonb_each($1::text::jsonb) n ("table", rights), jsonb_array_elements_text(n.rights) r ("right")
 WHERE NOT CASE r.right WHEN 'DELETE' THEN has_table_privilege(to_regclass(n.table), 'DELETE')
                        ELSE has_any_column_privilege(to_regclass(n.table), r.right) END
 ORDER BY n.table`

const PREPOSITIONS: Readonly<Record<string, string>> = { SELECT: ' from', INSERT: ' into', UPDATE: '', DELETE: ' from' }

/** What the role may not do, as a clause; undefined when it may do all. The tables are there already. */
export async function lackingRights(db: Database): Promise<string | undefined> {
  const rows = await db.query<{ table: string; right: string; role: string }>(LACKING, [needed])
  const [first] = rows
  if (first === undefined) return undefined
  return `the role ${first.role} may not ${listed(rows.map(({ table, right }) => `${right}${PREPOSITIONS[right]} ${table}`))}`
}
