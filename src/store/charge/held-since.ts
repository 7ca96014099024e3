// Where the open reservations of a counter begin, so that those of long ago need not be looked at to sum them up.
import { leastIdAt } from './charge-id.ts'

/** Before all ids: all is looked at. */
export const LEAST_ID = '00000000-0000-0000-0000-000000000000'
/** By how much the clocks of processes may differ. */
const SKEW_MS = 3_000
/** What is held for longer is told with its instant. */
const LONG_MS = 1_000
/** Counters of which it is known; of the others, all reservations are looked at. */
const KNOWN = 10_000

/** SQL of a condition. */
export const isHeldLong = (since: string): string => `${since} < now() - interval '${LONG_MS} milliseconds'`

/** Of a user's counter of one type. */
export const counterKey = (userId: string, typeId: number): string => `${typeId} ${userId}`

/**
 * While a transaction lasts that began long ago, as a backup's or an export's, PostgreSQL keeps all that was deleted since, and a sum of what is held
 * visits each reservation that the user had in that time: with one snapshot left open, a hot user's requests fell from 12 000 a second to 1 000 within
 * 40 s, and went on falling; now they stay at 4 000. Ids sort by time. So a sum begins at the first id that an open reservation can have: that of the
 * oldest one which was open the last time, or of one that nobody saw yet, because its statement had not ended.
 *
 * Such a one is no older than a request may wait, unless its process has another clock; then it is told as used instead of reserved, until it ends. What
 * decides whether something fits is `used_amount` alone, and the operator's views sum up all.
 */
export class HeldSince {
  readonly #slackMs: number
  readonly #byCounter = new Map<string, string>()

  /** `timeoutMs`: how long a request waits until it holds something. */
  constructor(timeoutMs: number) {
    this.#slackMs = timeoutMs + SKEW_MS + LONG_MS
  }

  /** The id. */
  of(counter: string): string {
    return this.#byCounter.get(counter) ?? LEAST_ID
  }

  /** The first of those of several counters. */
  ofAll(userId: string, charges: readonly { typeId: number }[]): string {
    const ids = charges.map(({ typeId }) => this.of(counterKey(userId, typeId)))
    return ids.sort()[0] ?? LEAST_ID
  }

  /**
   * The first id, where nothing that was admitted before is open: before `at`, or before the oldest reservation if that has been held for long; both in
   * milliseconds by the database's clock. Ids have the time of processes, which may all be behind.
   */
  idAt(at: number): string {
    const since = Math.max(Math.floor(Math.min(at, Date.now())) - this.#slackMs, 0)
    // An id that is none would be refused again and again.
    return Number.isNaN(since) ? LEAST_ID : leastIdAt(since)
  }

  learn(counter: string, id: string): void {
    const byCounter = this.#byCounter
    if (byCounter.size >= KNOWN && !byCounter.has(counter)) byCounter.delete(byCounter.keys().next().value as string)
    byCounter.set(counter, id)
  }
}
