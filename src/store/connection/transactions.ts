// Transactions on a server: each has its own connection until it is over.
import { FST_QUOTA_STORE } from '../../quota/errors.ts'
import { type Query, rowsOf, type TransactionMode, type Values, withDeadline } from '../database.ts'
import { type Channel, CLOSE_SECONDS, endClient } from './channel.ts'
import type { Hosts } from './hosts.ts'
import { endedAfter, type Session } from './lane.ts'
import { type Turn, waitInLine } from './wait-in-line.ts'

export interface TransactionOrder<T> {
  mode: TransactionMode
  work: (query: Query) => Promise<T>
  /** Statements are prepared by name, where the connection is the server's own. */
  prepare: boolean
  deadlineMs: number
}

/** What follows a BEGIN, so that its transaction has these settings. */
export const setLocal = (settings: Session): string =>
  Object.entries(settings)
    .map(([name, value]) => `; SET LOCAL ${name} = '${value}'`)
    .join('')

/**
 * Not by `begin` of postgres.js (3.4.9). Where the connection is lost within a transaction, `begin` writes to a socket that no longer
 * exists, and the error ends the process. It also prepares COMMIT by name, which behind a pooler in transaction mode fails, is tried again,
 * and is taken for done when the server has answered ROLLBACK: of 40 limits set that way, 31 were not.
 */
export class Transactions {
  readonly #open: () => Channel
  readonly #hosts: Hosts
  readonly #size: number
  readonly #settings: string
  readonly #idle: Channel[] = []
  readonly #taken = new Set<Channel>()
  readonly #waiting = new Set<Turn<void>>()
  #running = 0
  #isClosed = false

  /**
   * `open` gives a connection; there are at most `size`. `settings` apply to each transaction: here even a pooler takes them.
   */
  constructor(open: () => Channel, hosts: Hosts, size: number, settings: Session) {
    this.#open = open
    this.#hosts = hosts
    this.#size = size
    this.#settings = setLocal(settings)
  }

  /** Rejects with FST_QUOTA_STORE; then nothing was done, unless its COMMIT was not answered: then nobody can tell. */
  async run<T>({ deadlineMs, ...order }: TransactionOrder<T>): Promise<T> {
    const end = performance.now() + deadlineMs
    await this.#turn(deadlineMs)
    if (this.#isClosed) {
      this.#next()
      throw new FST_QUOTA_STORE('it is closed')
    }
    const channel = this.#takeIdle() ?? this.#open()
    this.#taken.add(channel)
    let isBegun = false
    const running = this.#runOn(channel, order, deadlineMs, () => {
      isBegun = true
    })
    try {
      const result = await withDeadline(running, Math.max(end - performance.now(), 1))
      this.#idle.push(channel)
      return result
    } catch (error) {
      // The server rolls back what is open on a connection that ends.
      void endClient(channel.client, 0)
      if (!this.#hosts.isElsewhere(error, channel.generation, isBegun) || performance.now() >= end) throw error
    } finally {
      this.#taken.delete(channel)
      this.#next()
    }
    return await this.run({ ...order, deadlineMs: end - performance.now() })
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#idle, ...this.#taken].map(({ client }) => endClient(client, CLOSE_SECONDS)))
  }

  /** One that leads to the current server, and was not lost meanwhile. */
  #takeIdle(): Channel | undefined {
    for (;;) {
      const channel = this.#idle.pop()
      if (channel === undefined) return undefined
      if (channel.generation === this.#hosts.generation && !channel.isLost) return channel
      channel.retire()
    }
  }

  /** First come, first served. */
  async #turn(deadlineMs: number): Promise<void> {
    if (this.#running < this.#size) {
      this.#running += 1
      return
    }
    await waitInLine(this.#waiting, deadlineMs)
  }

  #next(): void {
    const [next] = this.#waiting
    if (next === undefined) {
      this.#running -= 1
      return
    }
    this.#waiting.delete(next)
    next()
  }

  async #runOn<T>(
    channel: Channel,
    { mode, work, prepare }: Omit<TransactionOrder<T>, 'deadlineMs'>,
    deadlineMs: number,
    onBegun: () => void
  ): Promise<T> {
    const { isolationLevel, accessMode = '' } = mode
    // Not READ WRITE: a standby refuses that as unsupported (0A000), and a server that was made read-only would be written to.
    const begin = `BEGIN ISOLATION LEVEL ${isolationLevel} ${accessMode}${this.#settings}; SET LOCAL statement_timeout = ${endedAfter(deadlineMs)}`
    await channel.send(begin, [], false)
    // Until then nothing is done.
    onBegun()
    const result = await work(async <Row>(text: string, values: Values = []) =>
      rowsOf<Row>(await channel.send(text, values, prepare))
    )
    const { command } = await channel.send('COMMIT', [], false)
    if (command !== 'COMMIT') throw new FST_QUOTA_STORE(`the transaction ended with ${command}`)
    return result
  }
}
