// Reads the quota types.
import { asc, sql } from 'drizzle-orm'
import type { QuotaType } from '../quota/quota-type.ts'
import { type Database, dateOf, ms } from './database.ts'
import { quotaTypes } from './schema.ts'

/** As milliseconds: a timestamp's text follows the database's DateStyle, and Drizzle reads only one of them. */
const instant = (column: string) => sql`${sql.raw(ms(column))}`.mapWith(dateOf)

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
        createdAt: instant('created_at'),
        updatedAt: instant('updated_at')
      })
      .from(quotaTypes)
      .orderBy(asc(quotaTypes.typeKey))
  )
