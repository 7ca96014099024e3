// Reads the usage log, newest first: a page of it, or all that matches.
import { type Database, dateOf, ms } from '../database.ts'
import { where } from '../where.ts'

export interface UsageFilter {
  userId?: string | undefined
  typeId?: number | undefined
  endpoint?: string | undefined
  /** Included. */
  from?: Date | undefined
  /** Not included. */
  until?: Date | undefined
}

/** The last row of the previous page. */
export interface LogPosition {
  createdAt: Date
  id: string
}

export interface UsagePage {
  limit: number
  /** Rows to skip; each costs as much as reading it. */
  offset?: number | undefined
  after?: LogPosition | undefined
}

export interface UsageEntry {
  id: string
  userId: string
  quotaType: string
  amount: number
  endpoint: string | null
  /** JSON. */
  metadata: string
  createdAt: Date
}

/** At most `limit` rows after a position, or after `offset` rows. */
export async function listUsage(db: Database, filter: UsageFilter, page: UsagePage): Promise<UsageEntry[]> {
  const { text, values } = usageQuery(filter, page)
  return (await db.query<UsageRow>(text, values)).map(entryOf)
}

/** Rows per step of an export. A million rows took 20 MB of memory and 13 s; with 1000 per step, 100 MB and no less time. */
const BATCH = 250

/**
 * All that matches, a batch at a time, and the next only when it is asked for. On a connection of our own it is one cursor, so one moment's
 * log; elsewhere page after page, since a cursor would hold the application's connection, or the embedded engine's only one, for as long as
 * the reader takes: there, a late charge to a time that has been passed is missing.
 */
export async function* exportUsage(
  db: Database,
  filter: UsageFilter,
  page: Partial<UsagePage>
): AsyncGenerator<UsageEntry[]> {
  if (db.stream !== undefined) {
    const { text, values } = usageQuery(filter, page)
    for await (const rows of db.stream<UsageRow>(text, values, BATCH)) yield rows.map(entryOf)
    return
  }
  let { limit = Number.POSITIVE_INFINITY, offset, after } = page
  while (limit > 0) {
    const rows = await listUsage(db, filter, { limit: Math.min(BATCH, limit), offset, after })
    if (rows.length > 0) yield rows
    if (rows.length < BATCH) return
    limit -= rows.length
    after = rows.at(-1)
    offset = undefined
  }
}

interface UsageRow {
  id: string
  user_id: string
  type_key: string
  amount: number
  endpoint: string | null
  metadata: string
  created_at: number
}

function usageQuery({ userId, typeId, endpoint, from, until }: UsageFilter, page: Partial<UsagePage>) {
  const { text, values } = where([
    ['u.user_id = ?::text', userId],
    ['u.quota_type_id = ?::int', typeId],
    ['u.endpoint = ?::text', endpoint],
    ['u.created_at >= ?::timestamptz', from?.toISOString()],
    ['u.created_at < ?::timestamptz', until?.toISOString()],
    // A row comparison: one range of the index, however deep the page.
    ['(u.created_at, u.id) < (?::timestamptz, ?::uuid)', page.after?.createdAt.toISOString(), page.after?.id]
  ])
  return {
    text: `
SELECT u.id::text AS id, u.user_id, t.type_key, u.amount, u.endpoint, u.metadata::text AS metadata, ${ms('u.created_at')} AS created_at
  FROM usage_logs u JOIN quota_types t ON t.id = u.quota_type_id
 ${text}
 ORDER BY u.created_at DESC, u.id DESC
 ${page.limit === undefined ? '' : `LIMIT ${page.limit}`} OFFSET ${page.offset ?? 0}`,
    values
  }
}

const entryOf = (row: UsageRow): UsageEntry => ({
  id: row.id,
  userId: row.user_id,
  quotaType: row.type_key,
  amount: Number(row.amount),
  endpoint: row.endpoint,
  metadata: row.metadata,
  createdAt: dateOf(row.created_at)
})
