// The first argument of every statement: a database, whichever driver stands behind it.
import { type SQL, sql } from 'drizzle-orm'
import type { PgDatabase, PgTransactionConfig } from 'drizzle-orm/pg-core'
import { FST_QUOTA_STORE } from '../quota/errors.ts'
import { answeredLate } from './late-answer.ts'

/** A Drizzle database of any PostgreSQL driver. */
// biome-ignore lint/suspicious/noExplicitAny: the driver's result type and the application's schema are not ours to name
export type Orm = PgDatabase<any, any, any>

export type DatabaseKind = 'postgres' | 'embedded' | 'drizzle'

export interface Database {
  readonly kind: DatabaseKind
  /** The application's own, or that of the embedded engine. */
  readonly orm?: Orm
  /**
   * Runs one statement with `$1`-style values, each a text, a number, a boolean or null: what every driver sends alike.
   * Rejects with FST_QUOTA_STORE, the driver's error as its cause, also when the answer takes longer than the deadline: the
   * database's own, or `deadlineMs`.
   */
  query<Row>(text: string, values?: Values, deadlineMs?: number): Promise<Row[]>
  /**
   * The same for what a request waits for: on a server, on connections used only for this, where the server itself ends what takes too
   * long, so that a locked row holds up nobody else for long.
   */
  readonly metering: Pick<Database, 'query'>
  /** The same for the statements that hold and charge for many requests: on connections whose servers plan them only once. */
  readonly holding: Shared
  readonly charging: Shared
  /**
   * The rows of a SELECT as they are at one moment, `batch` at a time, from a cursor on its own connection: the next batch is fetched when
   * it is wanted, and ending the loop ends the query. Only where such a connection is possible.
   */
  stream?<Row>(text: string, values: Values, batch: number): AsyncGenerator<Row[]>
  /** Runs `work` in a transaction, with the same errors, within the database's deadline or `deadlineMs`. */
  transact<T>(mode: TransactionMode, work: (query: Query) => Promise<T>, deadlineMs?: number): Promise<T>
  close(): Promise<void>
}

/** Where statements follow each other, and a spare for one more beside a slow one. */
export interface Shared extends Pick<Database, 'query'> {
  spare: Pick<Database, 'query'>
}

export type Values = readonly (string | number | boolean | null)[]

type Run = (text: string, values: Values) => PromiseLike<unknown>

export type TransactionMode = Pick<PgTransactionConfig, 'accessMode'> &
  Required<Pick<PgTransactionConfig, 'isolationLevel'>>

/** Runs one statement, as within a transaction. */
export type Query = <Row>(text: string, values?: Values) => Promise<Row[]>

export interface Driver {
  run: Run
  transact<T>(mode: TransactionMode, work: (query: Query) => Promise<T>): Promise<T>
  close(): Promise<void>
}

/** Gives a driver the deadline and the one kind of error. */
export function openDatabase(
  kind: DatabaseKind,
  orm: Orm,
  { run, transact, close }: Driver,
  deadlineMs: number
): Database {
  const query: Database['query'] = async <Row>(text: string, values: Values = [], within = deadlineMs) =>
    rowsOf<Row>(await withDeadline(run(text, values), within))
  return {
    kind,
    orm,
    query,
    metering: { query },
    holding: { query, spare: { query } },
    charging: { query, spare: { query } },
    transact: (mode, work, within = deadlineMs) => withDeadline(transact(mode, work), within),
    close
  }
}

/**
 * The database for one piece of work that a request waits for: all its statements together take no longer than `budgetMs`, and a
 * transaction that has not ended by then is rolled back. The embedded engine cannot be cut short, and has no network that could go silent.
 */
export function within(db: Database, budgetMs: number, on: Pick<Database, 'query'> = db.metering): Database {
  if (db.kind === 'embedded') return db
  const end = performance.now() + budgetMs
  const left = () => Math.max(end - performance.now(), 1)
  const query: Database['query'] = (text, values) => on.query(text, values, left())
  const transact: Database['transact'] = (mode, work) => {
    const inTime: typeof work = async query => {
      const result = await work(query)
      // Nobody waits for the result any more, and it may have waited for a lock.
      if (performance.now() > end) throw new FST_QUOTA_STORE('no time is left')
      return result
    }
    return db.transact(mode, inTime, left())
  }
  return Object.create(db, { query: { value: query }, transact: { value: transact } })
}

/** Runs text and values through the application's own Drizzle database, whatever its driver. */
export const runThrough =
  (orm: Orm): Run =>
  (text, values) =>
    orm.execute(bind(text, values))

function bind(text: string, values: Values): SQL {
  const parts = text.split(/\$(\d+)/)
  return sql.join(parts.map((part, i) => (i % 2 === 0 ? sql.raw(part) : sql`${values[Number(part) - 1]}`)))
}

/**
 * Runs several statements as one, all within one deadline: the database's, or `deadlineMs`. Each sees what was committed before it began,
 * including by those for whom the statement before it waited: READ COMMITTED, whatever the server's default is.
 */
export function transaction<T>(db: Database, work: (query: Query) => Promise<T>, deadlineMs?: number): Promise<T> {
  return db.transact({ isolationLevel: 'read committed' }, work, deadlineMs)
}

/** Several queries about one moment. */
export function snapshot<T>(db: Database, work: (query: Query) => Promise<T>, deadlineMs?: number): Promise<T> {
  return db.transact({ isolationLevel: 'repeatable read', accessMode: 'read only' }, work, deadlineMs)
}

/**
 * `db.execute()` gives an array on postgres.js, and `{ rows }` on PGlite and node-postgres. Where connections are reset again and again, postgres.js
 * (3.4.9) resolves one statement in a thousand, which was never answered, with no rows: the result lacks the name of its command. And where an answer
 * breaks off amid its rows, by an error or with its connection, the next one on that connection begins with as many empty places.
 */
export function rowsOf<Row>(result: unknown): Row[] {
  if (!Array.isArray(result)) return (result as { rows: Row[] }).rows
  if ((result as { command?: unknown }).command === null)
    throw new FST_QUOTA_STORE('the connection was lost before the answer')
  if (result.length > 0 && !(0 in result))
    result.splice(
      0,
      result.findIndex((_, i) => i in result)
    )
  return result
}

/** postgres.js waits forever on a dead connection, so the deadline is ours. */
export async function withDeadline<T>(work: PromiseLike<T>, deadlineMs: number, onLate?: () => void): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  // Once: Drizzle runs a statement each time it is awaited.
  const answer = Promise.resolve(work)
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(answeredLate(new FST_QUOTA_STORE(`no answer within ${Math.round(deadlineMs)} ms`), answer))
      onLate?.()
    }, deadlineMs)
  })
  try {
    return await Promise.race([answer, late])
  } catch (error) {
    throw storeError(error)
  } finally {
    clearTimeout(timer)
  }
}

/** The one kind of error, whichever driver threw it. */
const storeError = (error: unknown): Error =>
  error instanceof FST_QUOTA_STORE ? error : new FST_QUOTA_STORE(describe(error), { cause: driverError(error) })

/** Drizzle puts a statement's parameters into its error's text; the driver's own error has none. */
const driverError = (error: unknown): unknown =>
  error instanceof Error && error.cause instanceof Error && error.message.startsWith('Failed query')
    ? error.cause
    : error

/** SQLSTATE, or the driver's code for a connection that failed. */
export function stateOf(error: unknown): string | undefined {
  const { code, cause } = error as { code?: unknown; cause?: unknown }
  return error instanceof FST_QUOTA_STORE || typeof code !== 'string'
    ? cause === undefined
      ? undefined
      : stateOf(cause)
    : code
}

/** Whether this is the server's own answer, and not about its connection (08…) or its shutdown (57P…). */
export const isWord = (error: unknown): boolean => /^(?=.*\d)(?!08|57P)[0-9A-Z]{5}$/.test(stateOf(error) ?? '')

/** The driver's own words, which name hosts, tables and constraints, stay in the cause: a message may reach a client. */
function describe(error: unknown): string {
  const cause = driverError(error)
  const state = stateOf(cause)
  if (state === undefined) return cause instanceof Error ? cause.message || 'unknown error' : String(cause)
  return /^(?=.*\d)[0-9A-Z]{5}$/.test(state) ? `the database refused it (${state})` : `no answer (${state})`
}

/** An instant as the milliseconds that `Date` takes: the one form that all drivers give alike. */
export const ms = (expression: string): string => `(extract(epoch FROM ${expression}) * 1000)::float8`

/** The same, and quicker, for an instant that has no fraction of a millisecond. */
export const wholeMs = (expression: string): string => `round(date_part('epoch', ${expression}) * 1000)`

/** An instant as people and JSON read it, in UTC whatever the session's time zone is. */
export const iso = (expression: string): string =>
  `to_char(${expression} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`

export const dateOf = (milliseconds: number): Date => new Date(Number(milliseconds))
export const dateOrNull = (milliseconds: number | null): Date | null =>
  milliseconds === null ? null : dateOf(milliseconds)

/** The value of a `$n::timestamptz` that stands for "the database's clock" when null. */
export const instantOf = (at: Date | undefined): string | null => at?.toISOString() ?? null
