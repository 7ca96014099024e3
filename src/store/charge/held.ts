// What running work holds of a counter: the sum of its open reservations.

/**
 * SQL: the amount that is held of the period that a row of `quota_limits` or `quota_periods` speaks of. It is not kept on that row: to charge
 * what was held would write the counter once more, and that was a fifth of what PostgreSQL does for a request. Read as of the statement's
 * snapshot, as all sums are.
 */
export const heldOf = (row: string, userId = `${row}.user_id`): string =>
  `(SELECT coalesce(sum(held.amount), 0)::bigint FROM quota_reservations held
     WHERE held.user_id = ${userId} AND held.quota_type_id = ${row}.quota_type_id AND held.period_start = ${row}.period_start)`

/** The same as a table of one row, `amount`, and whether some of it is `dead`: its time is up, and nobody has given it back yet. */
export const heldAndDeadOf = (row: string): string =>
  `(SELECT coalesce(sum(held.amount), 0)::bigint AS amount, coalesce(bool_or(held.expires_at <= now()), false) AS dead FROM quota_reservations held
     WHERE held.user_id = ${row}.user_id AND held.quota_type_id = ${row}.quota_type_id AND held.period_start = ${row}.period_start)`
