// What could not be written yet: kept in order, and tried again until it is.
import { setTimeout as sleep } from 'node:timers/promises'
import { stateOf } from '../store/database.ts'

const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 5_000
/** How long a closing application waits for the store to take what is owed. */
const CLOSE_PATIENCE_MS = 10_000
/** How many are tried at once: a store that comes back must not be met by all that has waited for it. */
const FIRST_WIDTH = 3
/** While so many wait, new requests are answered as if the store failed: their charge might be lost. */
const MAX_WAITING = 10_000
/** How long a counter that refuses a charge is given to be repaired; what never fits must not wait for ever. */
const REFUSED_FOR_MS = 15 * 60_000

/** Whoever asked for a write: told once, after the first attempt, and again if the owed write is dropped. */
export interface OwedListener<Answer> {
  /** Does the same once more; to do it twice does no harm. `amongMany`: others were just written, and it may share a statement with more of them. */
  again(amongMany: boolean): Promise<unknown>
  /** The first attempt succeeded. */
  written(answer: Answer): void
  /** It waits for another attempt; `over` resolves when it is written, or dropped. */
  owed(error: unknown, over: Promise<void>): void
  dropped(error: unknown): void
}

interface Waiting {
  listener: Pick<OwedListener<never>, 'again' | 'dropped'>
  /** Why the last attempt failed. */
  error: unknown
  since: number
  over: () => void
}

export class Owed {
  /** How many writes are under way or wait, so that closing can wait for them. */
  #unfinished = 0
  #onFinished: (() => void) | undefined
  readonly #closing = new AbortController()
  #waiting: Waiting[] = []
  #isDraining = false
  /** By `performance.now()`, like `since`: a clock that is set back must not make the patience longer. */
  #giveUpAt = Number.POSITIVE_INFINITY
  #size = 0
  readonly #largestWidth: number

  /**
   * `sharing`: how many can be written in one statement. Twice as many are tried after all were written, until they are so many: ten thousand
   * took 2 s, and up to 60 three at a time; a close has 10.
   */
  constructor(sharing = 1) {
    this.#largestWidth = Math.max(sharing, FIRST_WIDTH)
  }

  /** How many writes wait for another attempt. */
  get size(): number {
    return this.#size
  }

  get isFull(): boolean {
    return this.#size >= MAX_WAITING
  }

  /**
   * Where this first attempt fails, the write is done again until it succeeds. Resolves after the first attempt. With callbacks: awaited, each
   * of a request's two writes cost two more promises.
   */
  attempt<Answer>(first: Promise<Answer>, listener: OwedListener<Answer>): Promise<void> {
    this.#unfinished += 1
    return first.then(
      answer => {
        this.#finish()
        listener.written(answer)
      },
      error => this.#failed(error, listener)
    )
  }

  #failed(error: unknown, listener: OwedListener<never>): void {
    if (isPermanent(error)) {
      listener.dropped(error)
      this.#finish()
      return
    }
    this.#size += 1
    listener.owed(
      error,
      this.#wait(listener, error).then(() => this.#finish())
    )
  }

  /** Cuts the pauses short from now on, and resolves when nothing is owed after `others` or the patience is over. */
  async close(others?: Promise<void>): Promise<void> {
    this.#giveUpAt = performance.now() + CLOSE_PATIENCE_MS
    this.#closing.abort()
    await others
    if (this.#unfinished === 0) return
    await new Promise<void>(resolve => {
      this.#onFinished = resolve
    })
  }

  #finish(): void {
    this.#unfinished -= 1
    if (this.#unfinished === 0) this.#onFinished?.()
  }

  #wait(listener: Waiting['listener'], error: unknown): Promise<void> {
    return new Promise(over => {
      this.#waiting.push({ listener, error, since: performance.now(), over })
      if (!this.#isDraining) void this.#drain()
    })
  }

  /** First come, first served; where none of a few goes through, the store is left alone for longer and longer. */
  async #drain(): Promise<void> {
    this.#isDraining = true
    let pause = FIRST_PAUSE_MS
    let width = FIRST_WIDTH
    while (this.#waiting.length > 0) {
      await this.#rest(pause)
      // However many wait: none of them gets one more attempt.
      if (performance.now() >= this.#giveUpAt) for (const item of this.#waiting.splice(0)) this.#end(item, item.error)
      const few = this.#waiting.splice(0, width)
      const left = await Promise.all(few.map(item => this.#try(item, width > FIRST_WIDTH)))
      this.#waiting.push(...few.filter((_, i) => left[i]))
      pause = left.every(Boolean) ? Math.min(Math.max(pause * 2, FIRST_PAUSE_MS), LONGEST_PAUSE_MS) : 0
      width = left.some(Boolean) ? FIRST_WIDTH : Math.min(width * 2, this.#largestWidth)
    }
    this.#isDraining = false
  }

  /** Whether it must go on waiting. */
  async #try(item: Waiting, amongMany: boolean): Promise<boolean> {
    const error = await item.listener.again(amongMany).then(
      () => undefined,
      (cause: unknown) => cause ?? new Error('rejected with nothing')
    )
    item.error = error
    if (error !== undefined && !this.#isGivenUp(error, item.since)) return true
    this.#end(item, error)
    return false
  }

  /** It is written or, where there is an error, dropped. */
  #end({ listener, over }: Waiting, error: unknown): void {
    this.#size -= 1
    if (error !== undefined) listener.dropped(error)
    over()
  }

  #isGivenUp(error: unknown, since: number): boolean {
    if (isPermanent(error) || performance.now() >= this.#giveUpAt) return true
    return isRefused(error) && performance.now() - since > REFUSED_FOR_MS
  }

  async #rest(pause: number): Promise<void> {
    const { signal } = this.#closing
    // So that not all processes try at the same moment.
    const ms = pause * (0.75 + Math.random() / 2)
    await sleep(signal.aborted ? Math.min(ms, FIRST_PAUSE_MS) : ms, undefined, {
      signal: signal.aborted ? undefined : signal,
      ref: signal.aborted
    }).catch(() => {})
  }
}

/** Its user was deleted (23503, 23502), or its values are refused (22…): no later attempt will fare better. */
const isPermanent = (error: unknown): boolean => /^(22|2350[23])/.test(stateOf(error) ?? '')

/** A constraint refuses it, as that of a counter that is wrong does (23514), until somebody repairs it. */
const isRefused = (error: unknown): boolean => /^23/.test(stateOf(error) ?? '')
