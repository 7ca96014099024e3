// What running work holds of a counter: the sum of its open reservations.

/**
 * SQL: the amount that is held of the period that a row of `quota_limits` or `quota_periods` speaks of. It is not kept on that row: to charge
 * what was held would write the counter once more, and that was a fifth of what PostgreSQL does for a request. Read as of the statement's
 * snapshot, as all sums are.
 */
export const heldOf = (row: string, userId = `${row}.user_id`): string =>
  `(SELECT coalesce(sum(held.amount), 0)::bigint FROM quota_reservations held
     WHERE held.user_id = ${userId} AND held.quota_type_id = ${row}.quota_type_id AND held.period_start = ${row}.period_start)`
