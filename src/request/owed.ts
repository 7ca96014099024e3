// What could not be written yet: kept in order, and tried again until it is.
import { setTimeout as sleep } from 'node:timers/promises'
import { stateOf } from '../store/database.ts'

const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 5_000
/** How long a closing application waits for the store to take what is owed. */
const CLOSE_PATIENCE_MS = 10_000

/** Whether a write went through at its first attempt, waits for another, or never can. */
export type Written = 'written' | 'owed' | 'dropped'

export interface Attempt {
  /** The outcome of the first attempt. */
  first: Promise<Written>
  /** When it is written, or dropped. */
  done: Promise<void>
}

export interface OwedListener {
  owed(error: unknown): void
  dropped(error: unknown): void
}

export class Owed {
  /** Every write that is under way, so that closing can wait for it. */
  readonly #writes = new Set<Promise<void>>()
  readonly #closing = new AbortController()
  #giveUpAt = Number.POSITIVE_INFINITY
  #size = 0

  /** How many writes wait for another attempt. */
  get size(): number {
    return this.#size
  }

  /** Runs `write` until it succeeds. It must be one that may run twice. */
  attempt(write: () => Promise<unknown>, listener: OwedListener): Attempt {
    const first = write().then(
      (): Written => 'written',
      (error: unknown): Written => {
        const outcome = isPermanent(error) ? 'dropped' : 'owed'
        if (outcome === 'owed') this.#size += 1
        listener[outcome](error)
        return outcome
      }
    )
    const done = first.then(outcome => (outcome === 'owed' ? this.#retry(write, listener) : undefined))
    this.#writes.add(done)
    done.then(() => this.#writes.delete(done))
    return { first, done }
  }

  /** Tries without a pause from now on, and resolves when nothing is owed or the patience is over. */
  async close(): Promise<void> {
    this.#giveUpAt = Date.now() + CLOSE_PATIENCE_MS
    this.#closing.abort()
    while (this.#writes.size > 0) await Promise.all(this.#writes)
  }

  async #retry(write: () => Promise<unknown>, listener: OwedListener): Promise<void> {
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
      await this.#wait(pause)
      const error = await write().then(
        () => undefined,
        (cause: unknown) => cause ?? new Error('rejected with nothing')
      )
      if (error !== undefined && !isPermanent(error) && Date.now() < this.#giveUpAt) continue
      this.#size -= 1
      if (error !== undefined) listener.dropped(error)
      return
    }
  }

  async #wait(pause: number): Promise<void> {
    const { signal } = this.#closing
    await sleep(signal.aborted ? FIRST_PAUSE_MS : pause, undefined, {
      signal: signal.aborted ? undefined : signal,
      ref: signal.aborted
    }).catch(() => {})
  }
}

/** Its user was deleted (23…), or its values are refused (22…): no later attempt will fare better. */
const isPermanent = (error: unknown): boolean => /^2[23]/.test(stateOf(error) ?? '')
