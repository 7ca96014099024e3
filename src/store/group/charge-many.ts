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

/** The same for requests with several charges, numbered `q`: all of a request's are charged, or none. */
const CHARGE_SEVERAL = `
WITH item AS MATERIALIZED (
  SELECT * FROM unnest($1::text::text[], $2::text::uuid[], $3::text::bigint[], $4::text::text[], $5::text::text[], $6::text::int[]) WITH ORDINALITY
    AS w (user_id, id, amount, endpoint, metadata, q, n)
), held AS MATERIALIZED (
  SELECT w.q, w.n, w.endpoint, w.metadata, r.* FROM item w CROSS JOIN LATERAL (
    SELECT r.user_id, r.id, r.quota_type_id, r.amount, r.created_at FROM quota_reservations r
     WHERE r.user_id = w.user_id AND r.id = w.id AND r.amount = w.amount AND NOT ${isLate('r.created_at')}
       FOR UPDATE
  ) r
), whole AS MATERIALIZED (
  SELECT w.q FROM item w LEFT JOIN held h ON h.n = w.n GROUP BY w.q HAVING count(*) = count(h.n)
), gone AS (
  DELETE FROM quota_reservations r USING held h
   WHERE h.q IN (SELECT q FROM whole) AND r.user_id = ANY (ARRAY[h.user_id]) AND r.id = h.id
  RETURNING h.*
), logged AS (
  INSERT INTO usage_logs (user_id, id, quota_type_id, amount, endpoint, metadata, created_at)
  SELECT user_id, id, quota_type_id, amount, endpoint, coalesce(metadata::jsonb, '{}'), created_at FROM gone
)
SELECT array_agg(q)::text AS q FROM whole`

/** True for what was charged, undefined for what was not. */
export async function chargeMany(
  db: Pick<Database, 'query'>,
  charges: readonly Charge[]
): Promise<(true | undefined)[]> {
  const places = placesInOrder(charges)
  const [row] = await db.query<{ n: string | null }>(CHARGE_MANY, valuesOf(places.map(i => charges[i] as Charge)))
  const answers: (true | undefined)[] = charges.map(() => undefined)
  for (const n of numbersOf(row?.n ?? null)) answers[places[(n as number) - 1] as number] = true
  return answers
}

/** The same for requests with several charges. */
export async function chargeSeveral(
  db: Pick<Database, 'query'>,
  requests: readonly { charges: readonly Charge[] }[]
): Promise<(true | undefined)[]> {
  const charges = requests.flatMap(request => request.charges)
  const requestOf = requests.flatMap(({ charges }, q) => charges.map(() => q))
  const places = placesInOrder(charges)
  const values = valuesOf(places.map(i => charges[i] as Charge))
  const [row] = await db.query<{ q: string | null }>(CHARGE_SEVERAL, [
    ...values,
    intArray(places.map(i => requestOf[i] as number))
  ])
  const answers: (true | undefined)[] = requests.map(() => undefined)
  for (const q of numbersOf(row?.q ?? null)) answers[q as number] = true
  return answers
}

/** The rows are locked in the same order as in `deleteUser`: two statements that wait for each other's rows would wait forever. */
function placesInOrder(charges: readonly Charge[]): number[] {
  const places = charges.map((_, place) => place)
  if (places.length > 1) places.sort((a, b) => (isBefore(charges[a] as Charge, charges[b] as Charge) ? -1 : 1))
  return places
}

const isBefore = (a: Charge, b: Charge): boolean => (a.userId === b.userId ? a.id < b.id : a.userId < b.userId)

const valuesOf = (charges: readonly Charge[]): string[] => [
  textArray(charges.map(({ userId }) => userId)),
  uuidArray(charges.map(({ id }) => id)),
  intArray(charges.map(({ amount }) => amount)),
  textArray(charges.map(({ endpoint }) => endpoint)),
  textArray(charges.map(({ metadata }) => metadataText(metadata)))
]

/** As it is sent; null where there is none, as of most charges. */
export function metadataText(metadata: Metadata): string | null {
  for (const _ in metadata) return JSON.stringify(metadata)
  return null
}
