// Who changed what, when and why: written by the statement that makes the change.

/** The actor of what the application's own code does, unless it names another. */
export const APPLICATION = 'application'

/** Who stands behind a change. */
export interface Actor {
  /** The name of the admin token, what `authorize` returned, the command's name, or `application`. */
  actor: string
  reason: string | null
  requestId: string | null
}

/**
 * How an audit row begins; the other columns follow, in this order. Its time is taken once the change has its lock, not when its
 * transaction began: the first to begin may change last, and the newest row is the change in force.
 */
export const RECORD_AUDIT = `INSERT INTO quota_audit_logs (created_at, user_id, actor, reason, request_id, action, quota_type, before, after)
  SELECT clock_timestamp(),`

export const auditValues = ({ actor, reason, requestId }: Actor): [string, string | null, string | null] => [
  actor,
  reason,
  requestId
]

/** How a quota type is recorded in an audit row; `t` is its row. */
export const typeDocument = (t: string): string =>
  `jsonb_build_object('name', ${t}.name, 'description', ${t}.description, 'unit', ${t}.unit, 'kind', ${t}.kind, 'period', ${t}.period, 'default_limit', ${t}.default_limit, 'is_active', ${t}.is_active)`

/**
 * How a user's profile is recorded in an audit row. The audit log outlives the user, so it tells that there is an address, and whether it
 * changed from `oldEmail`, but not the address.
 */
export const userDocument = (email: string, timeZone: string, periodAnchor: string, oldEmail = email): string =>
  `jsonb_build_object('email', CASE WHEN ${email} IS NULL THEN NULL WHEN ${email} IS DISTINCT FROM ${oldEmail} THEN 'withheld, changed' ELSE 'withheld' END, 'time_zone', ${timeZone}, 'period_anchor', ${periodAnchor})`
