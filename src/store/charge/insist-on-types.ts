// Tells a type that is gone from a counter that is missing because its user was deleted just now.
import { FST_QUOTA_UNKNOWN_TYPE } from '../../quota/errors.ts'
import type { Database } from '../database.ts'

const THERE = 'SELECT id FROM quota_types WHERE id = ANY ($1::text::int[])'

/** Throws FST_QUOTA_UNKNOWN_TYPE for the first that has no row any more. */
export async function insistOnTypes(db: Database, types: readonly { typeId: number; type: string }[]): Promise<void> {
  const rows = await db.query<{ id: number }>(THERE, [`{${types.map(({ typeId }) => typeId).join(',')}}`])
  const there = new Set(rows.map(row => row.id))
  const gone = types.find(({ typeId }) => !there.has(typeId))
  if (gone !== undefined) throw new FST_QUOTA_UNKNOWN_TYPE(gone.type, 'its row is gone from quota_types')
}
