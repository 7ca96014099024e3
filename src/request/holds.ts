// What this process holds, from the moment it asks for it: what must not stay held is given back, and closing waits for the rest.
import { setTimeout as sleep } from 'node:timers/promises'
import { FST_QUOTA_STORE } from '../quota/errors.ts'
import type { Admission, WantedCharge } from '../store/charge/admit.ts'
import { releaseById } from '../store/charge/release.ts'
import { mayBeDone } from '../store/connection/may-be-done.ts'
import type { Database } from '../store/database.ts'
import { Owed } from './owed.ts'

/** How long a closing application waits for handlers whose clients have left: two of its ten seconds are for what they leave behind. */
const CLOSE_PATIENCE_MS = 8_000
const LOOK_EVERY_MS = 10
/** Node takes a longer timeout to be 1 ms. */
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1

/** Held for a request, until it is charged or given back. */
export interface Hold {
  /** The client has left, and nothing will tell any more how the request ended. */
  readonly isLost: boolean
  /** Its position among what is held. */
  place: number
  /** The timer, where it is to be forgotten later. */
  forgetting: NodeJS.Timeout | undefined
  giveBack(): void
}

interface HoldsOptions {
  storeTimeoutMs: number
  leaseMs: number
  /** Called where a user may have room again. */
  changed: (userId: string) => void
  /** Called with the reason why something could not be given back, and was left to expire. */
  left: (error: unknown) => void
}

export class Holds {
  readonly #db: Database
  readonly #options: HoldsOptions
  /** In no order: the entries of a set that changes with every request outlive V8's young collections. */
  readonly #held: Hold[] = []
  /** How many reserves are under way, or may have left something held. */
  #unknown = 0
  /** Apart from what is owed: a charge must not wait behind what would expire by itself. */
  readonly #returns = new Owed()
  #isClosing = false

  constructor(db: Database, options: HoldsOptions) {
    this.#db = db
    this.#options = options
  }

  /** Runs `reserve`. Where that rejects, nothing stays held, even if the database carries it out after all. While closing it always rejects. */
  reserve(userId: string, charges: readonly WantedCharge[], reserve: () => Promise<Admission>): Promise<Admission> {
    if (this.#isClosing) return Promise.reject(closing())
    const asked = reserve()
    this.#unknown += 1
    return asked.then(
      admission => {
        this.#unknown -= 1
        if (!admission.admitted || !this.#isClosing) return admission
        void this.#watch(this.#giveBack(userId, charges))
        throw closing()
      },
      error => {
        if (error instanceof FST_QUOTA_STORE) void this.#watch(this.#giveBackAfter(error, userId, charges))
        this.#unknown -= 1
        throw error
      }
    )
  }

  add(hold: Hold): void {
    hold.place = this.#held.push(hold) - 1
  }

  /** The last one takes its place. */
  delete(hold: Hold): void {
    if (this.#held[hold.place] !== hold) return
    const last = this.#held.pop() as Hold
    if (last === hold) return
    last.place = hold.place
    this.#held[last.place] = last
  }

  /** After `afterMs` it is no longer renewed, and its handler may never end: it is forgotten once it has expired. */
  deleteLater(hold: Hold, afterMs: number): void {
    const ms = Math.min(afterMs + this.#options.leaseMs, LONGEST_TIMEOUT_MS)
    // It may have been given up before, and is held after all.
    clearTimeout(hold.forgetting)
    hold.forgetting = setTimeout(() => this.delete(hold), ms).unref()
  }

  /** From now on nothing new is held. Resolves when nothing is held any more, or is known to be owed. */
  async close(): Promise<void> {
    this.#isClosing = true
    await this.#returns.close(this.#settled())
  }

  async #settled(): Promise<void> {
    const end = performance.now() + CLOSE_PATIENCE_MS
    do {
      for (const hold of [...this.#held]) if (hold.isLost) hold.giveBack()
      await sleep(LOOK_EVERY_MS)
    } while ((this.#unknown > 0 || this.#held.length > 0) && performance.now() < end)
    for (const hold of [...this.#held]) hold.giveBack()
  }

  async #giveBackAfter(error: unknown, userId: string, charges: readonly WantedCharge[]): Promise<void> {
    if (await mayBeDone(error, this.#options.storeTimeoutMs)) await this.#giveBack(userId, charges)
  }

  async #giveBack(userId: string, charges: readonly WantedCharge[]): Promise<void> {
    const { changed, left } = this.#options
    const again = () => releaseById(this.#db, userId, charges)
    let over: Promise<void> | undefined
    const owed = (_: unknown, until: Promise<void>) => {
      over = until
    }
    await this.#returns.attempt(again(), { again, written: () => {}, owed, dropped: left })
    await over
    changed(userId)
  }

  /** Closing waits for it. */
  async #watch<T>(work: Promise<T>): Promise<T> {
    this.#unknown += 1
    try {
      return await work
    } finally {
      this.#unknown -= 1
    }
  }
}

const closing = () => new FST_QUOTA_STORE('the application is closing')
