// Reads the audit log, newest first, a page at a time.
import { type Database, dateOf, ms } from '../database.ts'
import { where } from '../where.ts'
import type { LogPosition } from './list-usage.ts'

export interface AuditFilter {
  userId?: string | undefined
  actor?: string | undefined
  action?: string | undefined
  quotaType?: string | undefined
  /** Included. */
  from?: Date | undefined
  /** Not included. */
  until?: Date | undefined
}

export interface AuditEntry {
  id: string
  actor: string
  action: string
  /** Null where the change was not to a user. */
  userId: string | null
  quotaType: string | null
  before: Record<string, unknown> | null
  after: Record<string, unknown> | null
  reason: string | null
  requestId: string | null
  createdAt: Date
}

interface AuditRow {
  id: string
  actor: string
  action: string
  user_id: string
  quota_type: string | null
  before: string | null
  after: string | null
  reason: string | null
  request_id: string | null
  created_at: number
}

/** At most `limit` rows after a position, or after `offset` rows. */
export async function listAudit(
  db: Database,
  filter: AuditFilter,
  page: { limit: number; offset: number; after: LogPosition | undefined }
): Promise<AuditEntry[]> {
  const { text, values } = where([
    ['user_id = ?::text', filter.userId],
    ['actor = ?::text', filter.actor],
    ['action = ?::text', filter.action],
    ['quota_type = ?::text', filter.quotaType],
    ['created_at >= ?::timestamptz', filter.from?.toISOString()],
    ['created_at < ?::timestamptz', filter.until?.toISOString()],
    ['(created_at, id) < (?::timestamptz, ?::uuid)', page.after?.createdAt.toISOString(), page.after?.id]
  ])
  const rows = await db.query<AuditRow>(
    `
SELECT id::text AS id, actor, action, user_id, quota_type, before::text AS before, after::text AS after, reason, request_id,
       ${ms('created_at')} AS created_at
  FROM quota_audit_logs
 ${text}
 ORDER BY created_at DESC, id DESC
 LIMIT ${page.limit} OFFSET ${page.offset}`,
    values
  )
  return rows.map(entryOf)
}

const entryOf = (row: AuditRow): AuditEntry => ({
  id: row.id,
  actor: row.actor,
  action: row.action,
  userId: row.user_id === '' ? null : row.user_id,
  quotaType: row.quota_type,
  before: row.before === null ? null : JSON.parse(row.before),
  after: row.after === null ? null : JSON.parse(row.after),
  reason: row.reason,
  requestId: row.request_id,
  createdAt: dateOf(row.created_at)
})
