// A PostgreSQL server, through a pool of our own.
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { FST_QUOTA_CONNECTION, FST_QUOTA_SCHEMA, FST_QUOTA_UNREACHABLE } from '../../quota/errors.ts'
import { type Database, rowsOf, stateOf, type Values, withDeadline } from '../database.ts'
import { lackingRights } from '../migration/check-rights.ts'
import { missingFromSchema, tellMissing } from '../migration/check-schema.ts'
import { Channel, CLOSE_SECONDS, endClient, type Settings } from './channel.ts'
import { dial } from './dial.ts'
import { Hosts } from './hosts.ts'
import { endedAfter, Lane, type Session } from './lane.ts'
import { readServer, type ServerConnection } from './server-url.ts'
import { SharedLanes } from './shared-lanes.ts'
import { setLocal, Transactions } from './transactions.ts'

/** How long a statement of an operator or of the upkeep may take. */
const DEADLINE_MS = 5_000
/** Together with closing still below Fastify's plugin timeout of 10 s, so that the error is ours and says what is wrong. */
const BOOT_PATIENCE_MS = 5_000
/** How long a step of an export may take: the first may have to sort. */
const EXPORT_DEADLINE_MS = 60_000
/** Connections for all that no request waits for: an operator's questions, upkeep, and what is owed. */
const OPERATOR_CONNECTIONS = 3
/** How long an idle connection for transactions stays open: somebody may set a level with each upload. */
const IDLE_SECONDS = 60

export interface Patience {
  /** How long a statement that no request waits for may take. */
  deadlineMs?: number | undefined
  /** How long a request waits for the store, for a reserve or for a charge. */
  storeTimeoutMs?: number | undefined
}

export const DEFAULT_STORE_TIMEOUT_MS = 900

/** Connects lazily: nothing is sent before the first statement. */
export function connectServer(
  connection: ServerConnection,
  { deadlineMs = DEADLINE_MS, storeTimeoutMs = DEFAULT_STORE_TIMEOUT_MS }: Patience = {}
): Database {
  const { url, max, addresses, ...options } = readServer(connection)
  const hosts = new Hosts(addresses)
  const settings = {
    fetch_types: false,
    onnotice: () => {},
    socket: dial,
    ...options,
    // Columns must keep the names that our statements ask for.
    transform: undefined,
    connection: { application_name: 'fastify-quota', ...options.connection }
  }
  const few = Math.min(max, OPERATOR_CONNECTIONS)
  const operator = new Lane(
    url,
    hosts,
    { ...settings, max: few },
    {
      ...OPERATOR_SESSION,
      statement_timeout: endedAfter(deadlineMs)
    }
  )
  const metering = new Lane(url, hosts, { ...settings, max }, { ...sessionWithin(storeTimeoutMs), ...BY_KEY })
  const sharedSession = { ...sessionWithin(storeTimeoutMs), ...SHARED_SESSION }
  const shared = new SharedLanes(statements => new Lane(url, hosts, { ...settings, max: 1 }, sharedSession, statements))
  const alone = { ...settings, idle_timeout: IDLE_SECONDS, max_lifetime: null }
  const transactions = new Transactions(
    () => new Channel(url, { ...alone, ...hosts.address } as Settings, hosts.generation),
    hosts,
    few,
    OPERATOR_SESSION
  )
  const prepares = preparing(operator, options.prepare)
  const ask =
    (run: Lane['run']): Database['query'] =>
    async <Row>(text: string, values: Values = [], within = deadlineMs) => {
      const prepare = await withDeadline(prepares(), within)
      return rowsOf<Row>(await run(text, values, prepare, within))
    }
  return {
    kind: 'postgres',
    query: ask((...given) => operator.run(...given)),
    metering: { query: ask((...given) => metering.run(...given)) },
    holding: { query: ask(shared.runHolding), spare: { query: ask(shared.runSpareHolding) } },
    charging: { query: ask(shared.runCharging), spare: { query: ask(shared.runSpareCharging) } },
    stream: <Row>(text: string, values: Values, batch: number) =>
      streamRows<Row>(
        postgres(url, { ...settings, ...hosts.address, max: 1, prepare: false } as Settings),
        text,
        values,
        batch
      ),
    transact: async (mode, work, within = deadlineMs) => {
      const prepare = await withDeadline(prepares(), within)
      return await transactions.run({ mode, work, prepare, deadlineMs: within })
    },
    close: async () => {
      await Promise.all([operator, metering, shared, transactions].map(connections => connections.close()))
    }
  }
}

/**
 * What the statements rely on, whatever the defaults of the server and the role are: instants are told as floats, with all their digits,
 * and arrays may have nulls. JIT: compiling one takes longer than running it.
 */
const SESSION: Session = {
  default_transaction_isolation: 'read committed',
  DateStyle: 'ISO',
  extra_float_digits: 1,
  array_nulls: 'on',
  jit: 'off'
}

/**
 * The lock timeout is shorter than the deadline, so that a change whose answer nobody waits for any more is not made later. Planned for each call's
 * values: a plan for any user, who has some twenty log rows, reads and sorts all rows of a user who has a million, for a page of a hundred.
 */
const OPERATOR_SESSION: Session = {
  ...SESSION,
  lock_timeout: 4_000,
  idle_in_transaction_session_timeout: 60_000,
  plan_cache_mode: 'force_custom_plan'
}

/** Shorter than the client's patience, so that the server's own error arrives. */
const sessionWithin = (storeTimeoutMs: number): Session => ({
  ...SESSION,
  statement_timeout: Math.max(Math.floor(storeTimeoutMs * 0.9), 1),
  lock_timeout: Math.max(Math.floor(storeTimeoutMs * 0.8), 1)
})

/** For statements that look up a few rows by their keys, whatever the tables' statistics say, or do not say yet. */
const BY_KEY: Session = { enable_seqscan: 'off', enable_bitmapscan: 'off' }

/**
 * For the statements that many requests share. They need to be planned only once: left to itself PostgreSQL plans each call anew, for a third more
 * of its time, since arrays of known length look cheaper.
 */
const SHARED_SESSION: Session = { plan_cache_mode: 'force_generic_plan', ...BY_KEY }

/** A slow reader is cut off by the code that sends the rows, not by the role's settings. */
const EXPORT_SESSION: Session = {
  ...SESSION,
  statement_timeout: EXPORT_DEADLINE_MS,
  idle_in_transaction_session_timeout: 0
}

/** The cursor has its own connection: however slowly it is read, it takes none away from metering, and none is left behind stuck. */
async function* streamRows<Row>(
  client: postgres.Sql,
  text: string,
  values: Values,
  batch: number
): AsyncGenerator<Row[]> {
  const run = (statement: string, given: Values = []) =>
    withDeadline(client.unsafe(statement, [...given]).then(rowsOf<Row>), EXPORT_DEADLINE_MS)
  try {
    await run(`BEGIN READ ONLY${setLocal(EXPORT_SESSION)}`)
    await run(`DECLARE quota_export NO SCROLL CURSOR FOR ${text}`, values)
    for (;;) {
      const rows = await run(`FETCH ${batch} FROM quota_export`)
      if (rows.length > 0) yield [...rows]
      if (rows.length < batch) return
    }
  } finally {
    await endClient(client, CLOSE_SECONDS)
  }
}

/**
 * Whether statements are prepared by name: unless told, where the connection is the server's own. Behind a pooler in transaction mode
 * (PgBouncer before 1.21, and others) the next statement reaches another server, and postgres.js reads garbage. A pooler gives itself away:
 * it makes up the backend's process id that a client is told.
 */
function preparing(lane: Lane, told: boolean | undefined): () => Promise<boolean> {
  let known = told
  let asking: Promise<boolean> | undefined
  const ask = async () => {
    const rows = rowsOf<{ pid: number }>(await lane.run('SELECT pg_backend_pid() AS pid', [], false, DEADLINE_MS))
    known = rows[0]?.pid === (rows as unknown as { state: { pid: number } }).state.pid
    return known
  }
  return async () => {
    if (known !== undefined) return known
    // Asked once, even by many at once.
    asking ??= ask().finally(() => {
      asking = undefined
    })
    return await asking
  }
}

/** Waits for a server that is starting, and refuses one without our tables, or whose tables we may not use. */
export async function requireReady(db: Database): Promise<void> {
  refuseIsolation(await requireReachable(db), db)
  const missing = await missingFromSchema(db)
  if (missing.length > 0)
    throw new FST_QUOTA_SCHEMA(
      tellMissing(missing),
      'Run `npx fastify-quota init --schema-only` (or `npx drizzle-kit push`) with DATABASE_URL set to this database'
    )
  const lacking = await lackingRights(db)
  if (lacking !== undefined) throw new FST_QUOTA_SCHEMA(lacking.what, `To fix it, ${lacking.remedy}`)
}

/** Tells two things with one question, because a boot waits for each: that there is an answer, and the isolation level. */
const IS_THERE = "SELECT current_setting('transaction_isolation') AS isolation_level"

/** Waits for a server that is starting; returns the isolation level of a statement that asks for none. */
export async function requireReachable(db: Database): Promise<string> {
  const end = Date.now() + BOOT_PATIENCE_MS
  // Once refused, postgres.js waits longer and longer before it tries again, and the later attempts only say that they had no answer.
  let telling: unknown
  for (;;) {
    try {
      const [row] = await withDeadline(db.query<object>(IS_THERE), Math.max(end - Date.now(), 1))
      return isolationIn(row)
    } catch (error) {
      if (error instanceof FST_QUOTA_CONNECTION) throw error
      if (telling === undefined || stateOf(error) !== undefined) telling = error
      if (!isTransient(stateOf(error)) || Date.now() >= end)
        throw new FST_QUOTA_UNREACHABLE(reasonOf(telling), { cause: telling })
      await sleep(250)
    }
  }
}

/** Else each field would be undefined, and an active type would be taken for an inactive one. */
function isolationIn(row: object | undefined): string {
  if (row === undefined || !('isolation_level' in row))
    throw new FST_QUOTA_CONNECTION(
      'renames columns, as a client with `transform: postgres.camel` does; use a client that does not'
    )
  return row.isolation_level as string
}

/** Above READ COMMITTED, a statement that has waited for another is refused (40001) and its request answered 503: all that meet at one counter. */
export const isIsolated = (isolation: string): boolean => !/^read (un)?committed$/.test(isolation)

export const SET_ISOLATION = "set default_transaction_isolation to 'read committed' for its role or database"

/** Our own connections ask for READ COMMITTED, but a pooler may keep that from the server. */
function refuseIsolation(isolation: string, { kind }: Database): void {
  if (!isIsolated(isolation)) return
  const own = kind === 'drizzle' ? ', or use a postgres:// URL, whose connections ask for it' : ''
  throw new FST_QUOTA_CONNECTION(
    `runs statements as ${isolation.toUpperCase()}, so concurrent requests on one counter fail with 503; ${SET_ISOLATION}${own}`
  )
}

/** A wrong password (28…) or an unknown database (3D000) will not fix itself while a boot waits. */
const isTransient = (state: string | undefined): boolean => state === undefined || !/^(28|3D)/.test(state)

function reasonOf(error: unknown): string {
  const cause = (error as Error).cause
  return cause instanceof Error && cause.message !== ''
    ? cause.message
    : String(stateOf(error) ?? (error as Error).message.replace(/\.$/, ''))
}
