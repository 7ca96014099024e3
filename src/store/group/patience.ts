// Statements for many users wait for what somebody else has locked while that is short, and otherwise go past it for some seconds.
import { isLockedOut } from '../charge/of-many.ts'
import { SLOW_MS } from '../connection/shared-lanes.ts'

/** How long locked rows are passed by, after somebody had them locked for too long. */
const CAREFUL_MS = 5_000

export class Patience {
  #carefulUntil = Number.NEGATIVE_INFINITY

  /** `waiting` waits for locks, for a moment (`PATIENCE`), and `passing` leaves out what is locked. */
  async run<T>(waiting: () => Promise<T>, passing: () => Promise<T>): Promise<T> {
    const since = performance.now()
    if (since < this.#carefulUntil) return await passing()
    try {
      return await waiting()
    } catch (error) {
      if (!isLockedOut(error)) throw error
      this.#beCareful()
      return await passing()
    } finally {
      // It waits for one counter after the other.
      if (performance.now() - since >= SLOW_MS) this.#beCareful()
    }
  }

  #beCareful(): void {
    this.#carefulUntil = performance.now() + CAREFUL_MS
  }
}
