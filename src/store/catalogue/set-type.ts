// Creates or changes a quota type for an operator. The code's declaration is not touched, so that a restart does not undo the change.
import type { PeriodUnit } from '../../quota/period.ts'
import { type QuotaKind, TYPE_DEFAULTS } from '../../quota/quota-type.ts'
import { END_DEADLINE_MS, endPeriods, startsAgain } from '../charge/end-periods.ts'
import { type Database, type Query, transaction, type Values } from '../database.ts'
import { type Actor, auditValues, RECORD_AUDIT, typeDocument } from '../record-audit.ts'

/** A missing field stays as it is, or gets the default in a new type. */
export interface TypeChange {
  name?: string
  description?: string | null
  unit?: string
  kind?: QuotaKind
  period?: PeriodUnit
  default_limit?: number
  is_active?: boolean
}

export type TypeOutcome = 'created' | 'updated' | 'another kind' | 'without a limit'

/** Running periods keep their end; an endless one ends now. */
const UPDATE_TYPE = `
WITH old AS MATERIALIZED (
  SELECT t.*, $2::text::jsonb AS change FROM quota_types t WHERE t.type_key = $1 FOR UPDATE
), changed AS (
  UPDATE quota_types t
     SET name = coalesce(o.change->>'name', t.name),
         description = CASE WHEN jsonb_exists(o.change, 'description') THEN o.change->>'description' ELSE t.description END,
         unit = coalesce(o.change->>'unit', t.unit),
         period = coalesce(o.change->>'period', t.period),
         default_limit = coalesce((o.change->>'default_limit')::bigint, t.default_limit),
         is_active = coalesce((o.change->>'is_active')::boolean, t.is_active),
         updated_at = now()
    FROM old o WHERE t.id = o.id AND t.kind = coalesce(o.change->>'kind', t.kind)
  RETURNING t.*
), audited AS (
  ${RECORD_AUDIT} '', $3::text, $4::text, $5::text, 'update_type', c.type_key, ${typeDocument('o')}, ${typeDocument('c')} FROM changed c JOIN old o ON o.id = c.id
)
SELECT o.id, c.id IS NOT NULL AS changed, c.id IS NOT NULL AND ${startsAgain('c', 'o')} AS ends FROM old o LEFT JOIN changed c ON c.id = o.id`

const CREATE_TYPE = `
WITH created AS (
  INSERT INTO quota_types (type_key, name, description, unit, kind, period, default_limit, is_active)
  SELECT $1, coalesce(g.name, $1), g.description, coalesce(g.unit, '${TYPE_DEFAULTS.unit}'), coalesce(g.kind, '${TYPE_DEFAULTS.kind}'),
         CASE WHEN g.kind = 'level' THEN 'never' ELSE coalesce(g.period, '${TYPE_DEFAULTS.period}') END, g.default_limit, coalesce(g.is_active, true)
    FROM jsonb_to_record($2::text::jsonb)
      AS g (name text, description text, unit text, kind text, period text, default_limit bigint, is_active boolean)
  ON CONFLICT (type_key) DO NOTHING
  RETURNING *
), audited AS (
  ${RECORD_AUDIT} '', $3::text, $4::text, $5::text, 'create_type', c.type_key, NULL, ${typeDocument('c')} FROM created c
)
SELECT id FROM created`

/** Changes nothing where the kind would be another, or where a new type has no limit. */
export async function setType(db: Database, key: string, change: TypeChange, by: Actor): Promise<TypeOutcome> {
  const values = [key, JSON.stringify(change), ...auditValues(by)]
  for (;;) {
    const old = await transaction(db, query => updateType(query, values), END_DEADLINE_MS)
    if (old !== undefined) return old.changed ? 'updated' : 'another kind'
    if (change.default_limit === undefined) return 'without a limit'
    const created = await db.query(CREATE_TYPE, values)
    if (created.length > 0) return 'created'
    // Somebody else was faster: it exists now.
  }
}

interface OldType {
  id: number
  changed: boolean
  ends: boolean
}

/** Undefined where there is none. */
async function updateType(query: Query, values: Values): Promise<OldType | undefined> {
  const [old] = await query<OldType>(UPDATE_TYPE, values)
  if (old?.ends) await endPeriods(query, old.id)
  return old
}
