// A pool of connections to a PostgreSQL server that is given up, and made anew, where the server has gone silent.
import postgres from 'postgres'
import { stateOf, type Values, withDeadline } from './database.ts'

type Settings = postgres.Options<Record<string, never>>

/** A statement of postgres.js; `state` is the connection that it was sent on. */
type Sent = postgres.PendingQuery<postgres.Row[]> & { state?: object | null }

/** What a connection asks for when it is opened, such as that the server ends what takes too long by itself. */
export type Session = Readonly<Record<string, string | number>>

/** A pool is made anew no more often: while a server is down, every statement would ask for it. */
const REPLACE_EVERY_MS = 1_000
/** How long a pool that was given up may take to end what is answered after all. */
const RETIRE_SECONDS = 5
/** postgres.js waits for ever to end a connection whose server crashed. */
export const CLOSE_SECONDS = 1

export class Lane {
  readonly #open: (session: Session) => postgres.Sql
  #session: Session
  #client: postgres.Sql
  #replacedAt = Number.NEGATIVE_INFINITY
  #isClosed = false
  /** When each connection answered last. */
  readonly #heardAt = new WeakMap<object, number>()

  constructor(url: string, settings: Settings, session: Session) {
    this.#open = session => postgres(url, { ...settings, connection: { ...settings.connection, ...session } })
    this.#session = session
    this.#client = this.#open(session)
  }

  get client(): postgres.Sql {
    return this.#client
  }

  async run(text: string, values: Values, prepare: boolean, deadlineMs: number): Promise<unknown> {
    const client = this.#client
    const query = client.unsafe(text, [...values], { prepare }) as Sent
    const sentAt = performance.now()
    try {
      const rows = await withDeadline<unknown>(query, deadlineMs, () => this.#giveUp(client, query, sentAt))
      this.#hear(query)
      return rows
    } catch (error) {
      if (stateOf(error) !== undefined) this.#hear(query)
      if (!this.#takesNoSession(error)) throw error
      return await this.run(text, values, prepare, deadlineMs)
    }
  }

  #hear({ state }: Sent): void {
    if (state) this.#heardAt.set(state, performance.now())
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await endClient(this.#client, CLOSE_SECONDS)
  }

  /**
   * A connection on which nothing was answered meanwhile, not even that a statement took too long, is dead. After a network black hole
   * of 3 s every one of a pool stayed silent for good; with a new pool it took 0.3 s to recover.
   */
  #giveUp(client: postgres.Sql, query: Sent, sentAt: number): void {
    // It waits for a connection, and none need be dead. It leaves the queue, and is never sent.
    if (!query.state) return void query.cancel()
    const heardAt = this.#heardAt.get(query.state) ?? Number.NEGATIVE_INFINITY
    if (client === this.#client && heardAt < sentAt) this.#replace(RETIRE_SECONDS)
  }

  #replace(patienceSeconds: number): void {
    const now = performance.now()
    if (this.#isClosed || now - this.#replacedAt < REPLACE_EVERY_MS) return
    this.#replacedAt = now
    void endClient(this.#client, patienceSeconds)
    this.#client = this.#open(this.#session)
  }

  /** A pooler such as PgBouncer takes none of it: there the deadline alone must do, and the server's defaults hold. */
  #takesNoSession(error: unknown): boolean {
    const message = ((error as Error).cause as Error | undefined)?.message ?? ''
    const isRefused = stateOf(error) === '08P01' && message.includes('startup parameter')
    if (!isRefused) return false
    // Another statement may have seen it first.
    if (Object.keys(this.#session).length > 0) {
      this.#session = {}
      this.#replacedAt = Number.NEGATIVE_INFINITY
      this.#replace(RETIRE_SECONDS)
    }
    return true
  }
}

/** Ends a pool, or leaves it where it does not end. */
export async function endClient(client: postgres.Sql, seconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const patience = new Promise<void>(resolve => {
    timer = setTimeout(resolve, (seconds + 1) * 1000)
  })
  await Promise.race([client.end({ timeout: seconds }).catch(() => {}), patience])
  clearTimeout(timer)
}
