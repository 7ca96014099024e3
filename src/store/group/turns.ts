// Groups whose statements follow each other on one connection: while little is under way, one statement at a time, so that more come to share it.
import { APART_MS, SLOW_MS } from '../connection/shared-lanes.ts'

/** With more, this process and the server would wait for each other. */
const FEW = 20
/** To be passed by once counts as much as if so many more waited. */
const PASSED_BY = 4
/** After more statements of one kind in a row, it goes on as if there were no other. */
const IN_A_ROW = 3

interface Taker {
  /** How many items have no answer yet, and how many of these were not sent. */
  readonly load: number
  readonly waits: number
  /** How many there have ever been. */
  readonly joined: number
  /** Sends what waits, if it may. */
  go: () => void
}

/** A statement that was sent, by `performance.now()`. */
interface Sent {
  readonly sentAt: number
}

/**
 * What holds and what charges alternate for each request. Sent as they come, they are many small statements, and a small one costs nearly as much as a
 * large one. Where handlers answer at once, and the two take turns, all that is there comes to share one statement of each: 1.3 times as many requests
 * with 2 to 6 connections, 1.1 to 1.2 with 12, and 1.05 to 1.1 with 25; with four processes on two cores 1.5, and 1.6 of a hot user. With 50 connections,
 * taking turns all the time gave 0.57. Where handlers take some time, requests do not come together: in turn, each took 1 to 1.6 ms longer, of 17.
 */
export class Turns {
  /** How often each was passed by while it had something to send. */
  readonly #passed = new Map<Taker, number>()
  /** Whose statements are under way. */
  readonly #underWay = new Map<Sent, Taker>()
  #last: Taker | undefined
  #inARow = 0
  /** Something followed at once on most of what was answered last. */
  #isFollowed = false
  #apartUntil = Number.NEGATIVE_INFINITY

  join(taker: Taker): void {
    this.#passed.set(taker, 0)
  }

  /** Whether `taker` may send a statement now, as far as others are concerned. */
  mayGo(taker: Taker): boolean {
    for (const one of this.#underWay.values()) if (one !== taker) return !this.areTaken()
    return true
  }

  /** Statements are sent one at a time: not while one is slow, or was just now, which must not hold up the others. */
  areTaken(): boolean {
    const now = performance.now()
    for (const { sentAt } of this.#underWay.keys()) if (now - sentAt >= SLOW_MS) this.#apartUntil = now + APART_MS
    return this.#isFollowed && now >= this.#apartUntil && this.#inARow <= IN_A_ROW && this.#load() <= FEW
  }

  begin(sent: Sent, taker: Taker): void {
    this.#underWay.set(sent, taker)
    this.#inARow = taker === this.#last ? this.#inARow + 1 : 1
    this.#last = taker
  }

  /** The next one goes once this turn of the event loop has brought what the answers lead to; to how many answers something should follow. */
  end(sent: Sent, taker: Taker, leading: number): void {
    this.#underWay.delete(sent)
    const before = this.#joinedBeside(taker)
    setImmediate(() => {
      if (leading > 0) this.#isFollowed = 2 * (this.#joinedBeside(taker) - before) >= leading
      this.#pass()
    })
  }

  /** Those go first of whom most wait: what one statement has held, the next one charges. Whoever was passed by comes to its turn before long. */
  #pass(): void {
    const last = this.#last
    const urgency = (taker: Taker) => taker.waits + (this.#passed.get(taker) as number) * PASSED_BY
    const waiting = [...this.#passed.keys()].filter(({ waits }) => waits > 0)
    waiting.sort((a, b) => urgency(b) - urgency(a) || Number(b === last) - Number(a === last))
    for (const taker of waiting) {
      taker.go()
      this.#passed.set(taker, taker.waits === 0 ? 0 : (this.#passed.get(taker) as number) + 1)
    }
  }

  #joinedBeside(taker: Taker): number {
    let sum = 0
    for (const other of this.#passed.keys()) if (other !== taker) sum += other.joined
    return sum
  }

  #load(): number {
    let sum = 0
    for (const { load } of this.#passed.keys()) sum += load
    return sum
  }
}
