// Reads the quota types.
import { asc } from 'drizzle-orm'
import type { QuotaType } from '../quota/quota-type.ts'
import type { Database } from './database.ts'
import { quotaTypes } from './schema.ts'

export const listTypes = (db: Database): Promise<QuotaType[]> =>
  db.guard(
    db.orm
      .select({
        id: quotaTypes.id,
        key: quotaTypes.typeKey,
        name: quotaTypes.name,
        description: quotaTypes.description,
        unit: quotaTypes.unit,
        kind: quotaTypes.kind,
        period: quotaTypes.period,
        defaultLimit: quotaTypes.defaultLimit,
        isActive: quotaTypes.isActive,
        createdAt: quotaTypes.createdAt,
        updatedAt: quotaTypes.updatedAt
      })
      .from(quotaTypes)
      .orderBy(asc(quotaTypes.typeKey))
  )
