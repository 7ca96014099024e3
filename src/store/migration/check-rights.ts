// Whether the role we log in as may do what our statements do: if one right is missing, each request would be answered 503.
import { getTableName } from 'drizzle-orm'
import type { Database } from '../database.ts'
import { listed, tables } from './check-schema.ts'

const ALL = ['SELECT', 'INSERT', 'UPDATE', 'DELETE']

/** In these nothing is updated, or nothing is deleted except by a foreign key, which acts as the tables' owner. */
const LESS: Readonly<Record<string, readonly string[]>> = {
  usage_logs: ['SELECT', 'INSERT', 'DELETE'],
  quota_audit_logs: ['SELECT', 'INSERT'],
  quota_types: ['SELECT', 'INSERT', 'UPDATE'],
  quota_limits: ['SELECT', 'INSERT', 'UPDATE'],
  quota_periods: ['SELECT', 'INSERT', 'UPDATE'],
  quota_idempotency_keys: ['SELECT', 'INSERT', 'DELETE'],
  quota_usage_marks: ['SELECT', 'INSERT', 'DELETE']
}

/** What requests update: granted column by column, UPDATE may lack one that a newer version added. */
const UPDATED = JSON.stringify({
  quota_limits: ['used_amount', 'last_held_amount', 'limit_amount', 'period_start', 'period_end', 'updated_at']
})

const needed = JSON.stringify(
  Object.fromEntries(tables.map(getTableName).map(table => [table, LESS[table] ?? ALL] as const))
)

export const GRANT = 'give it the rights that the README lists under GRANT, as the role that owns the tables'

/** As policies name them. */
const COMMANDS = { SELECT: 'r', INSERT: 'a', UPDATE: 'w', DELETE: 'd' } as const

type Right = keyof typeof COMMANDS

/** A right may be granted column by column, except DELETE. Where row level security applies to this role, a policy must grant it as well. */
const LACKING = `
SELECT n.table, r.right, current_user::text AS role, r.granted, CASE WHEN r.partly THEN r.columns END AS columns
  FROM jsonb_each($1::text::jsonb) n ("table", rights)
 CROSS JOIN LATERAL (
   SELECT w.right, p.partly, c.columns, p.partly AND c.columns IS NULL AS granted
     FROM jsonb_array_elements_text(n.rights) w ("right")
    CROSS JOIN LATERAL (
      SELECT CASE w.right WHEN 'DELETE' THEN has_table_privilege(to_regclass(n.table), 'DELETE')
                          ELSE has_any_column_privilege(to_regclass(n.table), w.right) END AS partly
    ) p
    CROSS JOIN LATERAL (
      SELECT string_agg(u.name, ', ') AS columns FROM jsonb_array_elements_text($3::text::jsonb -> n.table) u (name)
       WHERE w.right = 'UPDATE' AND NOT has_column_privilege(to_regclass(n.table), u.name, 'UPDATE')
    ) c
 ) r
 WHERE NOT r.granted
    OR row_security_active(to_regclass(n.table))
   AND NOT EXISTS (SELECT 1 FROM pg_policy p
                    WHERE p.polrelid = to_regclass(n.table) AND p.polpermissive AND p.polcmd::text IN ('*', $2::text::jsonb->>r.right)
                      AND EXISTS (SELECT 1 FROM unnest(p.polroles) AS m (id) WHERE m.id = 0 OR pg_has_role(m.id, 'USAGE')))
 ORDER BY r.granted, n.table`

interface LackingRow {
  table: string
  right: Right
  role: string
  /** True: it is granted, but no policy lets it be used. */
  granted: boolean
  /** Those for which it is not granted, where it is for others. */
  columns: string | null
}

const PREPOSITIONS: Readonly<Record<Right, string>> = { SELECT: ' from', INSERT: ' into', UPDATE: '', DELETE: ' from' }

/** What the role may not do, as a clause, and what helps; undefined when it may do everything. The tables must exist. */
export async function lackingRights(db: Database): Promise<{ what: string; remedy: string } | undefined> {
  const rows = await db.query<LackingRow>(LACKING, [needed, JSON.stringify(COMMANDS), UPDATED])
  const [first] = rows
  if (first === undefined) return undefined
  // Rights come first: without them no policy is consulted.
  const alike = rows.filter(({ granted }) => granted === first.granted)
  const what = `the role ${first.role} may not ${listed(alike.map(lackOf))}`
  return first.granted
    ? {
        what: `${what}: row level security is on, and no policy allows it`,
        remedy: `ALTER TABLE ${first.table} DISABLE ROW LEVEL SECURITY, or CREATE POLICY with USING (true) for this role, on each of them`
      }
    : { what, remedy: GRANT }
}

const lackOf = ({ table, right, columns }: LackingRow): string =>
  `${right}${PREPOSITIONS[right]} ${table}${columns === null ? '' : ` (${columns})`}`
