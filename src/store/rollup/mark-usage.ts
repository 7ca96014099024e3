// The marks that tell where the usage log was changed in a time that may already be added up: by a late charge, an undone charge or a deletion.

/**
 * A row written within this time of its `created_at`, as nearly all are, leaves no mark; the sums stay behind by more than that. Charges
 * made at once always have the present as `created_at`.
 */
export const UNMARKED_MINUTES = 15

/** SQL: whether a row with this `created_at` leaves a mark. */
export const isLate = (createdAt: string): string =>
  `${createdAt} < clock_timestamp() - interval '${UNMARKED_MINUTES} minutes'`

/** SQL: the quarter of an hour that an instant falls into. Days and hours of every time zone begin with one. */
export const quarterOf = (instant: string): string => `to_timestamp(floor(extract(epoch FROM ${instant}) / 900) * 900)`

/**
 * SQL of a CTE: marks the quarters of an hour of the rows in `changed (user_id, created_at)`. It is part of the statement that changes
 * them, so that nobody sees one without the other, and stores the transaction's id, so that none waits for another.
 */
export const markLate = (changed: string, userId = 'c.user_id'): string => `
  marked AS (
    INSERT INTO quota_usage_marks (user_id, at, transaction)
    SELECT DISTINCT ${userId}, ${quarterOf('c.created_at')}, pg_current_xact_id()::text::bigint
      FROM ${changed} c WHERE ${isLate('c.created_at')}
    ON CONFLICT DO NOTHING
  )`
