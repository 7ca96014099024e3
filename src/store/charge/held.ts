// What running work holds of a counter: the sum of its open reservations.

/**
 * SQL: the amount held of the period that a row of `quota_limits` or `quota_periods` describes. It is not kept on that row: charging what was held
 * would write the counter once more, which was a fifth of PostgreSQL's work for a request. Read as of the statement's snapshot, as all sums are. With
 * `since`, from that id on, as `HeldSince` gives it.
 */
export const heldOf = (row: string, userId = `${row}.user_id`, since?: string): string =>
  `(SELECT coalesce(sum(held.amount), 0)::bigint FROM quota_reservations held
     WHERE held.user_id = ${userId} AND held.quota_type_id = ${row}.quota_type_id AND held.period_start = ${row}.period_start
       ${since === undefined ? '' : `AND held.id >= ${since}`})`

/** The same as a table of one row: `amount`, and `dead`, whether some of it has expired and has not been released yet. */
export const heldAndDeadOf = (row: string): string =>
  `(SELECT coalesce(sum(held.amount), 0)::bigint AS amount, coalesce(bool_or(held.expires_at <= now()), false) AS dead FROM quota_reservations held
     WHERE held.user_id = ${row}.user_id AND held.quota_type_id = ${row}.quota_type_id AND held.period_start = ${row}.period_start)`

/** The same from the id `since` on; and when the `oldest` was admitted. */
export const heldSinceOf = (row: string, since: string, userId = `${row}.user_id`): string =>
  `(SELECT coalesce(sum(held.amount), 0)::bigint AS amount, coalesce(bool_or(held.expires_at <= now()), false) AS dead, min(held.created_at) AS oldest
     FROM quota_reservations held
    WHERE held.user_id = ${userId} AND held.quota_type_id = ${row}.quota_type_id AND held.period_start = ${row}.period_start AND held.id >= ${since})`

/**
 * SQL: that the reservation `r` is one of user $1 with an id in `named`. The ids alone may be looked for among all of the user's reservations, and those
 * that an old snapshot keeps.
 */
export const isOneOf = (named: string): string =>
  `r.user_id = $1 AND r.id = ANY (ARRAY(SELECT id FROM ${named}))
     AND r.id BETWEEN (SELECT id FROM ${named} ORDER BY id LIMIT 1) AND (SELECT id FROM ${named} ORDER BY id DESC LIMIT 1)`

/**
 * SQL: when a reservation expires that was admitted at `admittedAt`. Where the database's clock has been set back since then, as when a standby with
 * another clock takes over, it still does so after it was admitted, which a CHECK asks for. Cut off to a millisecond, as it is told, and not rounded, as
 * the column would be.
 */
export const expiryOf = (admittedAt: string, leaseMs: string, now = 'now()'): string =>
  `greatest(date_trunc('milliseconds', ${now}) + ${leaseMs} * interval '1 millisecond', ${admittedAt} + interval '1 millisecond')`
