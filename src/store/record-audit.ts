// Who changed what, when and why: written by the statement that makes the change.

/** Who stands behind a change. */
export interface Actor {
  /** The name of the admin token, what `authorize` returned, or `application`. */
  actor: string
  reason: string | null
  requestId: string | null
}

/** The columns of an audit row that every change fills alike, in this order. */
export const AUDIT_COLUMNS = 'user_id, actor, reason, request_id, action, quota_type, before, after'

export const auditValues = ({ actor, reason, requestId }: Actor): [string, string | null, string | null] => [
  actor,
  reason,
  requestId
]
