// Reads the quota types.
import type { QuotaType } from '../../quota/quota-type.ts'
import { type Database, dateOf, ms } from '../database.ts'

const LIST = `
SELECT id, type_key AS key, name, description, unit, kind, period, default_limit, is_active, ${ms('created_at')} AS created_at, ${ms('updated_at')} AS updated_at
  FROM quota_types ORDER BY type_key`

interface TypeRow extends Pick<QuotaType, 'id' | 'key' | 'name' | 'description' | 'unit' | 'kind' | 'period'> {
  default_limit: number
  is_active: boolean
  created_at: number
  updated_at: number
}

export async function listTypes(db: Database): Promise<QuotaType[]> {
  const rows = await db.query<TypeRow>(LIST)
  return rows.map(({ default_limit, is_active, created_at, updated_at, ...type }) => ({
    ...type,
    defaultLimit: Number(default_limit),
    isActive: is_active,
    createdAt: dateOf(created_at),
    updatedAt: dateOf(updated_at)
  }))
}
