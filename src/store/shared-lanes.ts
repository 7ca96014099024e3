// The connections of the statements that many requests share. Those that hold and those that charge follow each other on one of them, while they are quick.
import type { Lane } from './lane.ts'

type Run = Lane['run']

/** One that takes longer holds up what is behind it: it waits for a lock, or its connection is dead. Far more than a statement takes. */
export const SLOW_MS = 100
/** So long after that, each goes by itself. */
const APART_MS = 5_000

/**
 * On one connection the server begins with the next without waiting for this process, and both together keep one core busy while this process has
 * the other: 1.05 to 1.15 times as many requests as on two, with 20 to 100 connections, and as many with 200. A charge that waits for the log, as
 * while it is copied, must hold up nobody who comes: so each has a connection of its own besides, on which it goes where the other is slow, or where it
 * is slow itself and another of its kind goes beside it.
 */
export class SharedLanes {
  readonly #both: Lane
  readonly #own: { holding: Lane; charging: Lane }
  /** When those under way on `#both` were sent. */
  readonly #sentAt = new Set<{ at: number }>()
  #apartUntil = Number.NEGATIVE_INFINITY

  /** `open` gives a connection that takes so many statements, one behind the other. */
  constructor(open: (statements: number) => Lane) {
    this.#both = open(2)
    this.#own = { holding: open(1), charging: open(1) }
  }

  readonly runHolding: Run = (...given) =>
    this.#areApart() ? this.#own.holding.run(...given) : this.#runBoth(...given)
  readonly runCharging: Run = (...given) => this.#runBoth(...given)
  /** For one more, beside one that is slow. */
  readonly runSpareHolding: Run = (...given) =>
    this.#areApart() ? this.#runBoth(...given) : this.#own.holding.run(...given)
  readonly runSpareCharging: Run = (...given) => this.#own.charging.run(...given)

  async close(): Promise<void> {
    await Promise.all([this.#both, this.#own.holding, this.#own.charging].map(lane => lane.close()))
  }

  async #runBoth(...given: Parameters<Run>): Promise<unknown> {
    const sent = { at: performance.now() }
    this.#sentAt.add(sent)
    try {
      return await this.#both.run(...given)
    } finally {
      this.#areApart()
      this.#sentAt.delete(sent)
    }
  }

  #areApart(): boolean {
    const now = performance.now()
    for (const { at } of this.#sentAt) if (now - at >= SLOW_MS) this.#apartUntil = now + APART_MS
    return now < this.#apartUntil
  }
}
