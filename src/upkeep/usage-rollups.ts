// Keeps the usage log added up for statistics, in the days of the time zones that are asked for.
import { type Database, stateOf } from '../store/database.ts'
import { forgetMarked, pruneRollups } from '../store/rollup/forget-rollups.ts'
import { rollUsage } from '../store/rollup/roll-usage.ts'
import { rollWindow } from '../store/rollup/roll-window.ts'
import { lookAround, SafeTime } from '../store/rollup/safe-time.ts'

/** Each is kept up to date as the log grows; for more of them the log is read. */
const MOST_ZONES = 8
/** Spans of days in a time zone that are kept as a whole; others are added up from their days. */
const MOST_WINDOWS = 3
const DEFAULT_DAYS = 30
const QUARTER_MS = 900_000
/** How soon after the last turn a request may start another: one that is repeated need not wait longer for what was not there. */
const SOONEST_MS = 5_000

interface Zone {
  /** Until when it is added up, in milliseconds. */
  until: number
  /** The numbers of days that statistics are asked for, the latest last. */
  windows: number[]
}

const NEVER = Number.NEGATIVE_INFINITY

export class UsageRollups {
  readonly #db: Database
  readonly #onError: (error: unknown) => void
  readonly #safe = new SafeTime()
  /** Those of this process, the one asked for last at the end. */
  readonly #zones = new Map<string, Zone>([['UTC', { until: NEVER, windows: [DEFAULT_DAYS] }]])
  readonly #stopping = new AbortController()
  #cannot = false
  #turn: Promise<void> | undefined
  #turnAt = Number.NEGATIVE_INFINITY

  constructor(db: Database, onError: (error: unknown) => void) {
    this.#db = db
    this.#onError = onError
  }

  /** Statistics over so many days are asked for in this time zone: their sums are kept from now on. */
  want(timeZone: string, days: number): void {
    const zone = this.#zones.get(timeZone) ?? { until: NEVER, windows: [] }
    if (!zone.windows.includes(days))
      Object.assign(zone, { until: NEVER, windows: [...zone.windows, days].slice(-MOST_WINDOWS) })
    this.#zones.delete(timeZone)
    this.#zones.set(timeZone, zone)
    if (this.#zones.size > MOST_ZONES) {
      const [oldest] = [...this.#zones.keys()].filter(name => name !== 'UTC')
      this.#zones.delete(oldest as string)
    }
    const isOld = Date.now() - zone.until > 8 * QUARTER_MS
    if (isOld && performance.now() - this.#turnAt > SOONEST_MS) void this.keep()
  }

  /**
   * One turn, where none is under way; where nothing has changed and no time has passed, it is one query. Never rejects. A database that cannot
   * do it (0A000), such as Citus, is not asked any more: statistics are read from the log.
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
    // The first look has nothing to compare with.
    if (this.#safe.until === Number.NEGATIVE_INFINITY) await lookAround(this.#db, this.#safe)
    if (marked) {
      await forgetMarked(this.#db)
      for (const zone of this.#zones.values()) zone.until = NEVER
    }
    const { until } = this.#safe
    if (until === NEVER) return
    for (const [name, zone] of this.#zones) {
      if (until - zone.until < QUARTER_MS) continue
      const { windows } = zone
      // Another window may have been asked for meanwhile.
      if ((await this.#keepZone(name, windows)) && zone.windows === windows) zone.until = until
    }
  }

  async #keepZone(name: string, windows: readonly number[]): Promise<boolean> {
    const { signal } = this.#stopping
    if (!(await rollUsage(this.#db, name, this.#safe, { signal }))) return false
    for (const days of windows)
      if (signal.aborted || !(await rollWindow(this.#db, name, days, this.#safe))) return false
    return true
  }

  async prune(): Promise<void> {
    await pruneRollups(this.#db)
  }

  /** Ends after the day that is being added up. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#turn
  }
}
