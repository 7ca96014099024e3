// A transaction through the application's own Drizzle database, whatever its driver.
import { FST_QUOTA_STORE } from '../../quota/errors.ts'
import {
  isWord,
  type Orm,
  type Query,
  rowsOf,
  runThrough,
  stateOf,
  type TransactionMode,
  type Values
} from '../database.ts'

/**
 * Where its connection is lost, postgres.js (3.4.9) rejects a transaction but lets its work go on: the next statement, or the ROLLBACK of
 * work that has failed, is written to a socket that no longer exists, and the error ends the process. So the work stops where it is. The
 * mode is set by one of its own statements, which may be lost like any other.
 */
export function transactThrough<T>(orm: Orm, mode: TransactionMode, work: (query: Query) => Promise<T>): Promise<T> {
  if (!isPostgresJs(orm)) return orm.transaction(tx => work(queryThrough(tx)), mode)
  const { isolationLevel, accessMode = '' } = mode
  let isLost = false
  const transaction = orm.transaction(async tx => {
    const ask = queryThrough(tx)
    const query: Query = async <Row>(text: string, values?: Values) => {
      try {
        if (!isLost) return await ask<Row>(text, values)
      } catch (error) {
        if (!isOfConnection(error)) throw error
        isLost = true
      }
      return await never()
    }
    await query(`SET TRANSACTION ISOLATION LEVEL ${isolationLevel} ${accessMode}`)
    const result = await work(query)
    return isLost ? await never() : result
  })
  transaction.catch(() => {
    isLost = true
  })
  return transaction
}

const never = () => new Promise<never>(() => {})

const isPostgresJs = (orm: Orm): boolean =>
  typeof (orm as { $client?: { begin?: unknown } }).$client?.begin === 'function'

/** What the driver itself reports, or the server about its shutdown; FST_QUOTA_STORE is ours, for an answer that is none. */
const isOfConnection = (error: unknown): boolean =>
  error instanceof FST_QUOTA_STORE || (stateOf(error) !== undefined && !isWord(error))

function queryThrough(tx: Orm): Query {
  const ask = runThrough(tx)
  return async <Row>(text: string, values: Values = []) => rowsOf<Row>(await ask(text, values))
}
