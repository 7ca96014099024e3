// Connections to a PostgreSQL server for statements, each of which is replaced when it is lost or goes silent.
import { stateOf, type Values, withDeadline } from '../database.ts'
import { Channel, CLOSE_SECONDS, endClient, type Settings } from './channel.ts'
import type { Hosts } from './hosts.ts'
import { type Turn, waitInLine } from './wait-in-line.ts'

/** What a connection asks for when it is opened, such as that the server itself ends what takes too long. */
export type Session = Readonly<Record<string, string | number>>

/**
 * The `statement_timeout` of what is waited for `deadlineMs`: the server ends it a little later, and no sooner, whatever the role's own setting is.
 */
export const endedAfter = (deadlineMs: number): number => Math.min(Math.ceil(deadlineMs * 1.1), 2 ** 31 - 1)

/**
 * Never sends more statements than the connections take: the others wait here, where they can leave again. One that postgres.js holds
 * cannot: where a connection opens for a statement that was cancelled meanwhile, it stays neither open nor closed forever (3.4.9).
 */
export class Lane {
  readonly #open: (session: Session) => Channel
  readonly #hosts: Hosts
  readonly #connections: number
  readonly #statements: number
  readonly #channels = new Set<Channel>()
  readonly #waiting = new Set<Turn<Channel>>()
  #session: Session
  #closed: Channel | undefined

  /** `statements`: how many may be under way on a connection, one behind the other. */
  constructor(url: string, hosts: Hosts, settings: Settings & { max: number }, session: Session, statements = 1) {
    this.#open = session => {
      const connection = { ...settings.connection, ...session }
      return new Channel(url, { ...settings, ...hosts.address, connection } as Settings, hosts.generation, channel =>
        this.#drop(channel)
      )
    }
    this.#hosts = hosts
    this.#connections = settings.max
    this.#statements = statements
    this.#session = session
  }

  async run(text: string, values: Values, prepare: boolean, deadlineMs: number): Promise<unknown> {
    const end = performance.now() + deadlineMs
    const channel = await this.#turn(deadlineMs)
    const query = channel.send(text, values, prepare)
    const sentAt = performance.now()
    let isElsewhere = false
    // Once the driver is done with it, even where nobody waits for it any more.
    query.then(
      () => this.#release(channel),
      error => {
        isElsewhere = this.#hosts.isElsewhere(error, channel.generation, Boolean(query.state))
        this.#release(channel)
      }
    )
    try {
      const rows = await withDeadline<unknown>(query, Math.max(end - sentAt, 1), () => {
        // As after a network black hole, of which neither side is told.
        if (channel.isSilentSince(sentAt, query)) this.#drop(channel)
      })
      channel.hear()
      return rows
    } catch (error) {
      if (stateOf(error) !== undefined) channel.hear()
      if (!isElsewhere && !this.#takesNoSession(error)) throw error
      // Once closed every attempt would fail at once, and none lead elsewhere.
      if (this.#closed || performance.now() >= end) throw error
      return await this.run(text, values, prepare, end - performance.now())
    }
  }

  /** What still waits is not taken. */
  async close(): Promise<void> {
    this.#closed = this.#open(this.#session)
    await Promise.all([this.#closed, ...this.#channels].map(({ client }) => endClient(client, CLOSE_SECONDS)))
    this.#admit()
  }

  /** First come, first served. */
  async #turn(deadlineMs: number): Promise<Channel> {
    this.#follow()
    const channel = this.#waiting.size === 0 ? this.#take() : undefined
    return channel ?? (await waitInLine(this.#waiting, deadlineMs))
  }

  /** The one with the fewest statements. */
  #take(): Channel | undefined {
    if (this.#closed) return this.#closed
    let channel: Channel | undefined
    for (const other of this.#channels) if (channel === undefined || other.taken < channel.taken) channel = other
    if ((channel === undefined || channel.taken > 0) && this.#channels.size < this.#connections) {
      channel = this.#open(this.#session)
      this.#channels.add(channel)
    }
    if (channel === undefined || channel.taken >= this.#statements) return undefined
    channel.taken += 1
    return channel
  }

  #release(channel: Channel): void {
    channel.taken -= 1
    this.#follow()
    this.#admit()
  }

  /** Moves to the server that is asked now. */
  #follow(): void {
    for (const channel of this.#channels) if (channel.generation !== this.#hosts.generation) this.#drop(channel)
  }

  #admit(): void {
    for (const waiting of this.#waiting) {
      const channel = this.#take()
      if (channel === undefined) return
      this.#waiting.delete(waiting)
      waiting(channel)
    }
  }

  #drop(channel: Channel): void {
    if (this.#closed || !this.#channels.delete(channel)) return
    channel.retire()
    this.#admit()
  }

  /** A pooler such as PgBouncer takes no session settings: there the deadline alone must do, and the server's defaults hold. */
  #takesNoSession(error: unknown): boolean {
    const message = ((error as Error).cause as Error | undefined)?.message ?? ''
    const isRefused = stateOf(error) === '08P01' && message.includes('startup parameter')
    if (!isRefused) return false
    // Another statement may have seen it first.
    if (Object.keys(this.#session).length > 0) {
      this.#session = {}
      for (const channel of [...this.#channels]) this.#drop(channel)
    }
    return true
  }
}
