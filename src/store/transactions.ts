// Transactions on a server: each has a connection for itself until it is over.
import type postgres from 'postgres'
import { FST_QUOTA_STORE } from '../quota/errors.ts'
import { type Query, rowsOf, type TransactionMode, type Values, withDeadline } from './database.ts'
import { CLOSE_SECONDS, endClient, type Session } from './lane.ts'
import { type Turn, waitInLine } from './wait-in-line.ts'

/** A client of one connection. */
interface Channel {
  client: postgres.Sql
  /** How often its connection was lost. It is made anew for the next statement, which must not take that for the same transaction. */
  losses: number
}

export interface TransactionOrder<T> {
  mode: TransactionMode
  work: (query: Query) => Promise<T>
  /** By name, where the connection is the server's own. */
  prepare: boolean
  deadlineMs: number
}

/**
 * Not by `begin` of postgres.js (3.4.9). Where the connection is lost within one, that writes to a socket which is there no more, and the error ends
 * the process. And it prepares COMMIT by name, which behind a pooler in transaction mode fails, is tried again, and is taken for done when the
 * server has answered ROLLBACK: of 40 limits that were set so, 31 were not.
 */
export class Transactions {
  readonly #open: (onclose: () => void) => postgres.Sql
  readonly #size: number
  readonly #settings: string
  readonly #idle: Channel[] = []
  readonly #taken = new Set<Channel>()
  readonly #waiting = new Set<Turn<void>>()
  #running = 0
  #isClosed = false

  /**
   * `open` gives a client of one connection that tells of each loss of it; there are at most `size`. `settings` hold for each transaction: a
   * pooler takes them here.
   */
  constructor(open: (onclose: () => void) => postgres.Sql, size: number, settings: Session) {
    this.#open = open
    this.#size = size
    this.#settings = Object.entries(settings)
      .map(([name, value]) => `; SET LOCAL ${name} = '${value}'`)
      .join('')
  }

  /** Rejects with FST_QUOTA_STORE, and then nothing of it was done, unless nobody can tell whether its COMMIT was answered. */
  async run<T>({ deadlineMs, ...order }: TransactionOrder<T>): Promise<T> {
    const end = performance.now() + deadlineMs
    await this.#turn(deadlineMs)
    if (this.#isClosed) {
      this.#next()
      throw new FST_QUOTA_STORE('it is closed')
    }
    const channel = this.#idle.pop() ?? this.#channel()
    this.#taken.add(channel)
    const running = this.#runOn(channel, order)
    try {
      const result = await withDeadline(running, Math.max(end - performance.now(), 1))
      this.#idle.push(channel)
      return result
    } catch (error) {
      // The server rolls back what is open on a connection that ends.
      void endClient(channel.client, 0)
      throw error
    } finally {
      this.#taken.delete(channel)
      this.#next()
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#idle, ...this.#taken].map(({ client }) => endClient(client, CLOSE_SECONDS)))
  }

  #channel(): Channel {
    const channel: Channel = {
      client: this.#open(() => {
        channel.losses += 1
      }),
      losses: 0
    }
    return channel
  }

  /** The first come first. */
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

  async #runOn<T>(channel: Channel, { mode, work, prepare }: Omit<TransactionOrder<T>, 'deadlineMs'>): Promise<T> {
    const { isolationLevel, accessMode = 'read write' } = mode
    const { client } = channel
    await client.unsafe(`BEGIN ISOLATION LEVEL ${isolationLevel} ${accessMode}${this.#settings}`)
    const { losses } = channel
    const ask = (text: string, values: Values, isPrepared: boolean) => {
      if (channel.losses !== losses) throw new FST_QUOTA_STORE('the connection was lost within a transaction')
      return client.unsafe(text, [...values], { prepare: isPrepared })
    }
    const result = await work(async <Row>(text: string, values: Values = []) =>
      rowsOf<Row>(await ask(text, values, prepare))
    )
    const { command } = await ask('COMMIT', [], false)
    if (command !== 'COMMIT') throw new FST_QUOTA_STORE(`the transaction ended with ${command}`)
    return result
  }
}
