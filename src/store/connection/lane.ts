// A pool of connections to a PostgreSQL server that is given up, and replaced, when the server goes silent.
import postgres from 'postgres'
import { stateOf, type Values, withDeadline } from '../database.ts'
import type { Hosts } from './hosts.ts'
import { type Turn, waitInLine } from './wait-in-line.ts'

type Settings = postgres.Options<Record<string, never>>

/** A statement of postgres.js; `state` is the connection that it was sent on. */
type Sent = postgres.PendingQuery<postgres.Row[]> & { state?: object | null }

/** What a connection asks for when it is opened, such as that the server itself ends what takes too long. */
export type Session = Readonly<Record<string, string | number>>

/**
 * The `statement_timeout` of what is waited for `deadlineMs`: the server ends it a little later, and no sooner, whatever the role's own setting is.
 */
export const endedAfter = (deadlineMs: number): number => Math.min(Math.ceil(deadlineMs * 1.1), 2 ** 31 - 1)

/** A pool is replaced no more often: while a server is down, every statement would ask for it. */
const REPLACE_EVERY_MS = 1_000
/** How long a pool that was given up may take to finish what is answered after all. */
const RETIRE_SECONDS = 5
/** postgres.js waits forever to end a connection whose server crashed. */
export const CLOSE_SECONDS = 1

/** Connections to one server, that of this generation, and how many statements they have. */
interface Pool {
  client: postgres.Sql
  outstanding: number
  generation: number
}

/**
 * Never sends more statements than the connections take: the others wait here, where they can leave again. One that postgres.js holds
 * cannot: where a connection opens for a statement that was cancelled meanwhile, it stays neither open nor closed forever (3.4.9).
 */
export class Lane {
  readonly #open: (session: Session) => postgres.Sql
  readonly #hosts: Hosts
  readonly #size: number
  readonly #waiting = new Set<Turn<Pool>>()
  #session: Session
  #pool: Pool
  #replacedAt = Number.NEGATIVE_INFINITY
  #isClosed = false
  /** When each connection answered last. */
  readonly #heardAt = new WeakMap<object, number>()

  /** `statements`: how many may be under way on a connection, one behind the other. */
  constructor(url: string, hosts: Hosts, settings: Settings & { max: number }, session: Session, statements = 1) {
    this.#open = session => {
      const connection = { ...settings.connection, ...session }
      return postgres(url, { ...settings, ...hosts.address, backoff, connection } as Settings)
    }
    this.#hosts = hosts
    this.#size = settings.max * statements
    this.#session = session
    this.#pool = this.#make()
  }

  get client(): postgres.Sql {
    return this.#pool.client
  }

  /** A statement would be sent at once. */
  get isFree(): boolean {
    return this.#pool.outstanding < this.#size && this.#waiting.size === 0
  }

  async run(text: string, values: Values, prepare: boolean, deadlineMs: number): Promise<unknown> {
    const end = performance.now() + deadlineMs
    const pool = await this.#connection(deadlineMs)
    const query = pool.client.unsafe(text, [...values], { prepare }) as Sent
    const sentAt = performance.now()
    let isElsewhere = false
    // Once the driver is done with it, even where nobody waits for it any more.
    query.then(
      () => this.#release(pool),
      error => {
        isElsewhere = this.#hosts.isElsewhere(error, pool.generation, Boolean(query.state))
        this.#release(pool)
      }
    )
    try {
      const rows = await withDeadline<unknown>(query, Math.max(end - sentAt, 1), () =>
        this.#giveUp(pool, query, sentAt)
      )
      this.#hear(query)
      return rows
    } catch (error) {
      if (stateOf(error) !== undefined) this.#hear(query)
      if (!isElsewhere && !this.#takesNoSession(error)) throw error
      // On a closed pool every attempt would fail at once, and none lead elsewhere.
      if (this.#isClosed || performance.now() >= end) throw error
      return await this.run(text, values, prepare, end - performance.now())
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await endClient(this.#pool.client, CLOSE_SECONDS)
  }

  /** First come, first served. */
  async #connection(deadlineMs: number): Promise<Pool> {
    this.#follow()
    return this.isFree ? take(this.#pool) : await waitInLine(this.#waiting, deadlineMs)
  }

  #release(pool: Pool): void {
    pool.outstanding -= 1
    this.#follow()
    if (pool === this.#pool) this.#admit()
  }

  /** Moves to the server that is asked now. */
  #follow(): void {
    if (!this.#isClosed && this.#pool.generation !== this.#hosts.generation) this.#renew()
  }

  #admit(): void {
    for (const waiting of this.#waiting) {
      if (this.#pool.outstanding >= this.#size) return
      this.#waiting.delete(waiting)
      waiting(take(this.#pool))
    }
  }

  #hear({ state }: Sent): void {
    if (state) this.#heardAt.set(state, performance.now())
  }

  /**
   * A connection that has answered nothing meanwhile, not even that a statement took too long, is dead. After a network black hole of 3 s,
   * every connection of a pool stayed silent for good. One that is still being opened has its own time limit.
   */
  #giveUp(pool: Pool, { state }: Sent, sentAt: number): void {
    const isDead = state && (this.#heardAt.get(state) ?? Number.NEGATIVE_INFINITY) < sentAt
    if (isDead && pool === this.#pool) this.#replace()
  }

  #replace(): void {
    const now = performance.now()
    if (this.#isClosed || now - this.#replacedAt < REPLACE_EVERY_MS) return
    this.#replacedAt = now
    this.#renew()
  }

  #renew(): void {
    void endClient(this.#pool.client, RETIRE_SECONDS)
    this.#pool = this.#make()
    this.#admit()
  }

  #make(): Pool {
    return { client: this.#open(this.#session), outstanding: 0, generation: this.#hosts.generation }
  }

  /** A pooler such as PgBouncer takes no session settings: there the deadline alone must do, and the server's defaults hold. */
  #takesNoSession(error: unknown): boolean {
    const message = ((error as Error).cause as Error | undefined)?.message ?? ''
    const isRefused = stateOf(error) === '08P01' && message.includes('startup parameter')
    if (!isRefused) return false
    // Another statement may have seen it first.
    if (Object.keys(this.#session).length > 0) {
      this.#session = {}
      this.#replacedAt = Number.NEGATIVE_INFINITY
      this.#replace()
    }
    return true
  }
}

function take(pool: Pool): Pool {
  pool.outstanding += 1
  return pool
}

/** Seconds until the next attempt to connect. Left to itself, postgres.js comes to wait 20 after an outage. */
const backoff = (retries: number): number => (0.5 + Math.random() / 2) * Math.min(2 ** retries / 50, 0.5)

/** Ends a pool, or abandons it where it does not end. */
export async function endClient(client: postgres.Sql, seconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const patience = new Promise<void>(resolve => {
    timer = setTimeout(resolve, (seconds + 1) * 1000)
  })
  await Promise.race([client.end({ timeout: seconds }).catch(() => {}), patience])
  clearTimeout(timer)
}
