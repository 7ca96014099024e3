// Ends the running periods of a type that never started again, and from now on does.

/**
 * A CTE; `changed` and `old` name those with the type's row after and before. The cut is the clock at the row's own turn, rounded up: what was
 * charged while this statement ran through the users was admitted before it, so its log row falls into the period that it closes.
 */
export const endingPeriods = (changed: string, old: string): string => `
  ended AS (
    UPDATE quota_limits l
       SET period_end = greatest(date_trunc('milliseconds', clock_timestamp()), l.period_start) + interval '1 millisecond'
      FROM ${changed} c JOIN ${old} o ON o.id = c.id
     WHERE l.quota_type_id = c.id AND c.kind = 'flow' AND o.period = 'never' AND c.period <> 'never' AND l.period_end IS NULL
  )`
