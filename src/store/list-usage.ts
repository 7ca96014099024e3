// Reads the usage log, newest first, a page at a time.
import { and, desc, eq, gte, lt, type SQL, sql } from 'drizzle-orm'
import type { Database } from './database.ts'
import { quotaTypes, usageLogs } from './schema.ts'

export interface UsageFilter {
  userId?: string | undefined
  quotaType?: string | undefined
  endpoint?: string | undefined
  /** Included. */
  from?: Date | undefined
  /** Not included. */
  until?: Date | undefined
}

/** The last row of the page before. */
export interface UsagePosition {
  createdAt: Date
  id: string
}

export interface UsageEntry {
  id: string
  userId: string
  quotaType: string
  amount: number
  endpoint: string | null
  metadata: Record<string, unknown>
  createdAt: Date
}

/** At most `limit` rows after a position, or after `offset` rows. */
export const listUsage = (
  db: Database,
  filter: UsageFilter,
  page: { limit: number; offset?: number; after?: UsagePosition | undefined }
): Promise<UsageEntry[]> =>
  db.guard(
    db.orm
      .select({
        id: usageLogs.id,
        userId: usageLogs.userId,
        quotaType: quotaTypes.typeKey,
        amount: usageLogs.amount,
        endpoint: usageLogs.endpoint,
        metadata: usageLogs.metadata,
        createdAt: usageLogs.createdAt
      })
      .from(usageLogs)
      .innerJoin(quotaTypes, eq(quotaTypes.id, usageLogs.quotaTypeId))
      .where(and(...conditions(filter, page.after)))
      .orderBy(desc(usageLogs.createdAt), desc(usageLogs.id))
      .limit(page.limit)
      .offset(page.offset ?? 0)
  )

function conditions(filter: UsageFilter, after: UsagePosition | undefined): (SQL | undefined)[] {
  return [
    filter.userId === undefined ? undefined : eq(usageLogs.userId, filter.userId),
    filter.quotaType === undefined ? undefined : eq(quotaTypes.typeKey, filter.quotaType),
    filter.endpoint === undefined ? undefined : eq(usageLogs.endpoint, filter.endpoint),
    filter.from === undefined ? undefined : gte(usageLogs.createdAt, filter.from),
    filter.until === undefined ? undefined : lt(usageLogs.createdAt, filter.until),
    // A row comparison: one range of the index, however deep the page.
    after === undefined
      ? undefined
      : sql`(${usageLogs.createdAt}, ${usageLogs.id}) < (${after.createdAt.toISOString()}::timestamptz, ${after.id}::uuid)`
  ]
}
