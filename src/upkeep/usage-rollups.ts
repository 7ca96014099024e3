// Keeps the usage log added up for statistics, in the days of the time zones that are asked for.
import { type Database, stateOf } from '../store/database.ts'
import { forgetMarked, lookAround, pruneRollups, rollUsage, SafeTime } from '../store/rollup/roll-usage.ts'

/** Each is kept as the log grows; for more of them the log is read. */
const MOST_ZONES = 8
const QUARTER_MS = 900_000
/** Who asks again and again need not wait longer than this for what was not there. */
const SOONEST_MS = 5_000

export class UsageRollups {
  readonly #db: Database
  readonly #onError: (error: unknown) => void
  readonly #safe = new SafeTime()
  /** Those of this process, and until when each was added up: the one asked for last stands last. */
  readonly #zones = new Map([['UTC', Number.NEGATIVE_INFINITY]])
  readonly #stopping = new AbortController()
  #cannot = false
  #turn: Promise<void> | undefined
  #turnAt = Number.NEGATIVE_INFINITY

  constructor(db: Database, onError: (error: unknown) => void) {
    this.#db = db
    this.#onError = onError
  }

  /** Statistics are asked for in this time zone: they are kept from now on. */
  want(timeZone: string): void {
    const until = this.#zones.get(timeZone) ?? Number.NEGATIVE_INFINITY
    this.#zones.delete(timeZone)
    this.#zones.set(timeZone, until)
    if (this.#zones.size > MOST_ZONES) {
      const [oldest] = [...this.#zones.keys()].filter(zone => zone !== 'UTC')
      this.#zones.delete(oldest as string)
    }
    const isOld = Date.now() - until > 8 * QUARTER_MS
    if (isOld && performance.now() - this.#turnAt > SOONEST_MS) void this.keep()
  }

  /**
   * One turn, where none is under way; where nothing changed and no time has passed it is one question. Never rejects. A database that cannot
   * do it (0A000), as Citus, is asked no more: statistics are read from the log.
   */
  keep(): Promise<void> {
    if (this.#cannot) return Promise.resolve()
    this.#turn ??= this.#keep()
      .catch(error => {
        this.#cannot = stateOf(error) === '0A000'
        this.#onError(error)
      })
      .finally(() => {
        this.#turn = undefined
      })
    return this.#turn
  }

  async #keep(): Promise<void> {
    this.#turnAt = performance.now()
    const marked = await lookAround(this.#db, this.#safe)
    // At the first look there is nothing to compare it with.
    if (this.#safe.until === Number.NEGATIVE_INFINITY) await lookAround(this.#db, this.#safe)
    if (marked) {
      await forgetMarked(this.#db)
      for (const zone of this.#zones.keys()) this.#zones.set(zone, Number.NEGATIVE_INFINITY)
    }
    const { until } = this.#safe
    for (const [zone, done] of this.#zones) {
      if (until - done < QUARTER_MS) continue
      const isAll = await rollUsage(this.#db, zone, this.#safe, { signal: this.#stopping.signal })
      if (isAll && this.#zones.has(zone)) this.#zones.set(zone, until)
    }
  }

  prune(): Promise<void> {
    return pruneRollups(this.#db)
  }

  /** Ends after the day it is at. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#turn
  }
}
