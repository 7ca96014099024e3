// The connections for the statements that many requests share. Those that hold and those that charge follow each other on one of them while
// they are quick.
import type { Lane } from './lane.ts'

type Run = Lane['run']

/** A statement that takes longer holds up those behind it: it waits for a lock, or its connection is dead. */
export const SLOW_MS = 100
/** How many of each kind may be under way at once (`group.ts`). */
const OF_A_KIND = 2
/** How long each kind goes by itself after that. */
export const APART_MS = 5_000

/**
 * On one connection the server begins with the next statement without waiting for this process, and both kinds together keep one core busy
 * while this process has the other: 1.05 to 1.15 times as many requests as on two, with 20 to 100 connections, and as many with 200. A
 * charge that waits for the log, as while it is copied, must not hold up new requests: so each kind also has its own connection, which it
 * takes where the other is slow, or where it is slow itself and another of its kind goes beside it.
 */
export class SharedLanes {
  readonly #both: Lane
  readonly #own: { holding: Lane; charging: Lane }
  /** What is under way on `#both`. */
  readonly #sent = new Set<{ at: number; kind: 'holding' | 'charging' }>()
  #apartUntil = Number.NEGATIVE_INFINITY

  /** `open` gives a connection that takes that many statements, one behind the other. */
  constructor(open: (statements: number) => Lane) {
    this.#both = open(2 * OF_A_KIND)
    this.#own = { holding: open(OF_A_KIND), charging: open(OF_A_KIND) }
  }

  readonly runHolding: Run = (...given) =>
    this.#areApart() ? this.#own.holding.run(...given) : this.#runOnBoth('holding', given)
  readonly runCharging: Run = (...given) => this.#runOnBoth('charging', given)

  /** For one more, on a connection other than the slow one. */
  readonly runSpareHolding: Run = (...given) => {
    const isOnBoth = [...this.#sent].some(({ kind }) => kind === 'holding')
    return isOnBoth ? this.#own.holding.run(...given) : this.#runOnBoth('holding', given)
  }
  readonly runSpareCharging: Run = (...given) => this.#own.charging.run(...given)

  async close(): Promise<void> {
    await Promise.all([this.#both, this.#own.holding, this.#own.charging].map(lane => lane.close()))
  }

  async #runOnBoth(kind: 'holding' | 'charging', given: Parameters<Run>): Promise<unknown> {
    const sent = { at: performance.now(), kind }
    this.#sent.add(sent)
    try {
      return await this.#both.run(...given)
    } finally {
      this.#areApart()
      this.#sent.delete(sent)
    }
  }

  #areApart(): boolean {
    const now = performance.now()
    for (const { at } of this.#sent) if (now - at >= SLOW_MS) this.#apartUntil = now + APART_MS
    return now < this.#apartUntil
  }
}
