// How requests ask the database: each within its deadline, and it is noticed whether the database is there.
import { Presence } from '../connection/presence.ts'
import { isRefused } from '../connection/refused.ts'
import { type Database, within } from '../database.ts'

export class Asking {
  readonly db: Database
  readonly #timeoutMs: number
  readonly #presence: Presence
  readonly #hearing: Pick<Database, 'query'>

  /** `timeoutMs` is how long a request waits. */
  constructor(db: Database, timeoutMs: number) {
    this.db = db
    this.#timeoutMs = timeoutMs
    this.#presence = new Presence(timeoutMs)
    this.#hearing = { query: (...given) => this.#presence.hear(db.metering.query(...given)) }
  }

  /** The end of a request's wait, by `performance.now()`: what is not done with others has the time that is left of it. */
  deadline(): number {
    return performance.now() + this.#timeoutMs
  }

  /** The database for what is done by itself. */
  until(deadline: number): Database {
    return within(this.db, Math.max(deadline - performance.now(), 1), this.#hearing)
  }

  /** `statement` for many; `refused` for each where the database refused it because of one: then each asks by itself. */
  async together<Item, Given, Refused>(
    statement: (db: Database, items: readonly Item[]) => Promise<Given[]>,
    items: readonly Item[],
    on: Pick<Database, 'query'>,
    refused: Refused
  ): Promise<(Given | Refused)[]> {
    try {
      return await this.#presence.hear(statement(within(this.db, this.#timeoutMs, on), items))
    } catch (error) {
      if (!isRefused(error)) throw error
      return items.map(() => refused)
    }
  }

  /** Whether a request that failed with this error only waited behind others, for a database that is there. */
  isCrowded(error: unknown): boolean {
    return this.#presence.isCrowded(error)
  }
}
