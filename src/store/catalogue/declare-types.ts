// Records what the application's code declares, without undoing what an operator has changed since.
import { FST_QUOTA_KIND_CHANGED } from '../../quota/errors.ts'
import { type QuotaDeclaration, readDeclaration } from '../../quota/quota-type.ts'
import { END_DEADLINE_MS, endPeriods, startsAgain } from '../charge/end-periods.ts'
import { type Database, type Query, transaction, type Values } from '../database.ts'
import { type Actor, APPLICATION, auditValues, RECORD_AUDIT, typeDocument } from '../record-audit.ts'

const DECLARED: Actor = { actor: APPLICATION, reason: 'declared under the option quotas', requestId: null }

/** A separate statement: what the type was before is read by the next one, whose snapshot is newer than the lock. */
const LOCK = 'SELECT 1 FROM quota_types WHERE type_key = $1 FOR NO KEY UPDATE'

/**
 * A field is written when its declaration differs from the last one: a deploy changes what it says, a restart changes nothing, and what an
 * operator set by hand stays. Running periods keep their end; an endless one ends now.
 */
const DECLARE = `
WITH old AS (
  SELECT * FROM quota_types WHERE type_key = $1
), declared AS (
  SELECT $2::text::jsonb AS d
), kept AS (
  INSERT INTO quota_types (type_key, name, description, unit, kind, period, default_limit, declared)
  SELECT $1, d->>'name', d->>'description', d->>'unit', d->>'kind', d->>'period', (d->>'limit')::bigint, d FROM declared
  ON CONFLICT (type_key) DO UPDATE SET
    name = ${merged('name')}, description = ${merged('description')}, unit = ${merged('unit')}, period = ${merged('period')},
    default_limit = CASE WHEN excluded.declared->'limit' IS DISTINCT FROM quota_types.declared->'limit' THEN excluded.default_limit ELSE quota_types.default_limit END,
    declared = excluded.declared, updated_at = now()
    WHERE quota_types.declared IS DISTINCT FROM excluded.declared AND quota_types.kind = excluded.kind
  RETURNING *
), audited AS (
  ${RECORD_AUDIT} '', $3::text, $4::text, $5::text, CASE WHEN old.id IS NULL THEN 'create_type' ELSE 'update_type' END, kept.type_key,
         CASE WHEN old.id IS NOT NULL THEN ${typeDocument('old')} END, ${typeDocument('kept')}
    FROM kept LEFT JOIN old ON old.id = kept.id
)
SELECT (SELECT kind FROM old) AS old_kind,
       (SELECT kept.id FROM kept LEFT JOIN old ON old.id = kept.id WHERE ${startsAgain('kept', 'old')}) AS ending`

function merged(field: string): string {
  return `CASE WHEN excluded.declared->'${field}' IS DISTINCT FROM quota_types.declared->'${field}' THEN excluded.${field} ELSE quota_types.${field} END`
}

/** The declarations that equal the last ones of their types: nearly all, whenever a process starts. */
const UNCHANGED = `
SELECT t.type_key FROM quota_types t JOIN jsonb_each($1::text::jsonb) d (key, declared) ON d.key = t.type_key
 WHERE t.declared = d.declared AND t.kind = d.declared->>'kind'`

/** Throws FST_QUOTA_KIND_CHANGED where a flow would become a level, or the reverse: its log rows mean something else. */
export async function declareTypes(
  db: Database,
  quotas: Readonly<Record<string, QuotaDeclaration>>,
  by: Actor = DECLARED
): Promise<void> {
  // In one order, so that processes that boot together do not deadlock.
  const declared = Object.keys(quotas)
    .sort()
    .map(key => [key, readDeclaration(key, quotas[key] as QuotaDeclaration)] as const)
  const rows = await db.query<{ type_key: string }>(UNCHANGED, [JSON.stringify(Object.fromEntries(declared))])
  const unchanged = new Set(rows.map(row => row.type_key))
  for (const [key, declaration] of declared) {
    if (unchanged.has(key)) continue
    const values = [JSON.stringify(declaration), ...auditValues(by)]
    const oldKind = await transaction(db, query => declareType(query, key, values), END_DEADLINE_MS)
    if (oldKind !== null && oldKind !== declaration.kind)
      throw new FST_QUOTA_KIND_CHANGED(key, oldKind, declaration.kind)
  }
}

/** The kind that it had before; null where it is new. */
async function declareType(query: Query, key: string, values: Values): Promise<string | null> {
  await query(LOCK, [key])
  const [row] = await query<{ old_kind: string | null; ending: number | null }>(DECLARE, [key, ...values])
  if (row?.ending != null) await endPeriods(query, row.ending)
  return row?.old_kind ?? null
}
