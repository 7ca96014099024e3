// Charges what many requests held, in one statement: each reservation becomes a log row of the same amount, so no counter is moved. What
// held another amount, or is no longer held, is left to other statements.
import type { Metadata } from '../../quota/metadata.ts'
import { intArray, numbersOf, textArray, uuidArray } from '../arrays.ts'
import type { Database } from '../database.ts'
import { isLate } from '../rollup/mark-usage.ts'

/** A reservation that is to become a log row. */
export interface Charge {
  userId: string
  id: string
  amount: number
  endpoint: string | null
  metadata: Metadata
}

/**
 * One admitted so long ago that its log row leaves a mark is left out. ANY instead of `=` has each looked up by its key, as in
 * `hold-many.ts`: often there are no reservations at all when the table's statistics are made.
 */
const CHARGE_MANY = `
WITH gone AS (
  DELETE FROM quota_reservations r
   USING unnest($1::text::text[], $2::text::uuid[], $3::text::bigint[], $4::text::text[], $5::text::text[]) WITH ORDINALITY
      AS w (user_id, id, amount, endpoint, metadata, n)
   WHERE r.user_id = ANY (ARRAY[w.user_id]) AND r.id = w.id AND r.amount = w.amount AND NOT ${isLate('r.created_at')}
  RETURNING w.n, r.user_id, r.id, r.quota_type_id, r.amount, w.endpoint, w.metadata, r.created_at
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT user_id, id, quota_type_id, amount, endpoint, coalesce(metadata::jsonb, '{}'), created_at FROM gone
)
SELECT array_agg(n)::text AS n FROM gone`

/**
 * True for what was charged, undefined for what was not. The rows are locked in the same order as in `deleteUser`: two statements that wait
 * for each other's rows would wait forever.
 */
export async function chargeMany(
  db: Pick<Database, 'query'>,
  charges: readonly Charge[]
): Promise<(true | undefined)[]> {
  const places = charges.map((_, place) => place)
  if (places.length > 1) places.sort((a, b) => (isBefore(charges[a] as Charge, charges[b] as Charge) ? -1 : 1))
  const ordered = places.map(place => charges[place] as Charge)
  const [row] = await db.query<{ n: string | null }>(CHARGE_MANY, [
    textArray(ordered.map(({ userId }) => userId)),
    uuidArray(ordered.map(({ id }) => id)),
    intArray(ordered.map(({ amount }) => amount)),
    textArray(ordered.map(({ endpoint }) => endpoint)),
    textArray(ordered.map(({ metadata }) => textOf(metadata)))
  ])
  const answers: (true | undefined)[] = charges.map(() => undefined)
  for (const n of numbersOf(row?.n ?? null)) answers[places[(n as number) - 1] as number] = true
  return answers
}

const isBefore = (a: Charge, b: Charge): boolean => (a.userId === b.userId ? a.id < b.id : a.userId < b.userId)

/** Most charges have none. */
function textOf(metadata: Metadata): string | null {
  for (const _ in metadata) return JSON.stringify(metadata)
  return null
}
