// Keeps the usage log added up for statistics, in the days of the time zones that are asked for.
import { type Database, stateOf } from '../store/database.ts'
import { forgetMarked, lookAround, pruneRollups, rollUsage, SafeTime } from '../store/rollup/roll-usage.ts'
import { watchUsage } from '../store/rollup/watch-usage.ts'

/** Each is kept as the log grows; who asks for more of them waits for the log. */
const MOST_ZONES = 8
const HOUR_MS = 3_600_000

export class UsageRollups {
  readonly #db: Database
  readonly #safe = new SafeTime()
  /** Those of this process, and until when each was added up: the one asked for last stands last. */
  readonly #zones = new Map([['UTC', Number.NEGATIVE_INFINITY]])
  #mayWatch = true

  constructor(db: Database) {
    this.#db = db
  }

  /** Statistics were asked for in this time zone: from the next turn on they are kept. */
  want(timeZone: string): void {
    const until = this.#zones.get(timeZone) ?? Number.NEGATIVE_INFINITY
    this.#zones.delete(timeZone)
    this.#zones.set(timeZone, until)
    if (this.#zones.size <= MOST_ZONES) return
    const [oldest] = [...this.#zones.keys()].filter(zone => zone !== 'UTC')
    this.#zones.delete(oldest as string)
  }

  /**
   * One turn; where nothing changed and no hour has passed it is one question. Where the triggers cannot be made, it says so once, and
   * statistics are read from the log.
   */
  async keep(signal?: { readonly aborted: boolean }): Promise<void> {
    const { marked, watched } = await lookAround(this.#db, this.#safe)
    if (!watched && !(await this.#watch())) return
    if (marked) {
      await forgetMarked(this.#db)
      for (const zone of this.#zones.keys()) this.#zones.set(zone, Number.NEGATIVE_INFINITY)
    }
    const { until } = this.#safe
    for (const [zone, done] of this.#zones) {
      if (until - done < HOUR_MS / 4) continue
      await rollUsage(this.#db, zone, this.#safe, signal)
      if (!signal?.aborted) this.#zones.set(zone, until)
    }
  }

  async #watch(): Promise<boolean> {
    if (!this.#mayWatch) return false
    try {
      await watchUsage(this.#db)
      return true
    } catch (error) {
      // Not the owner of the table, or a table that can have no triggers, as on Citus.
      this.#mayWatch = !['42501', '0A000'].includes(stateOf(error) ?? '')
      throw error
    }
  }

  prune(): Promise<void> {
    return pruneRollups(this.#db)
  }
}
