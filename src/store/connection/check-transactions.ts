// Whether the application's driver keeps a transaction apart from statements sent meanwhile.
import { FST_QUOTA_CONNECTION } from '../../quota/errors.ts'
import { type Database, stateOf, transaction } from '../database.ts'

const MARK = "SELECT set_config('fastify_quota.transaction', 'open', true)"
const IS_MARKED = "SELECT coalesce(current_setting('fastify_quota.transaction', true), '') = 'open' AS inside"

/**
 * A `Client` of node-postgres is one connection, and Drizzle sends everything over it: a charge made while a transaction is open would be
 * part of it, refused if the transaction is read-only, and undone if it fails.
 */
export async function requireApart(db: Database): Promise<void> {
  const asked = await transaction(db, async query => {
    await query(MARK)
    // Not waited for: a pool of one connection answers after the transaction.
    const answer = db.query<{ inside: boolean }>(IS_MARKED)
    answer.catch(() => {})
    await query('SELECT 1')
    return { answer }
  }).catch(error => {
    if (stateOf(error) !== undefined) throw error
    // A driver without transactions, such as one over HTTP, says so where one is needed.
    return undefined
  })
  const [row] = (await asked?.answer) ?? []
  if (row?.inside)
    throw new FST_QUOTA_CONNECTION(
      'is a Drizzle database on a single connection, whose transactions would take in statements of other requests; give it a pool (`new Pool()` of node-postgres), or use a postgres:// URL'
    )
}
