// What this process holds, renewed while it lives: a reservation lives as long as its process, and a handler may take as long as it likes.

import { type LiveReservations, renewReservations } from '../store/charge/renew-reservations.ts'
import type { Database } from '../store/database.ts'
import { byUser } from './by-user.ts'

/** Held for as long as it is in the set. */
export interface Live {
  readonly userId: string
  readonly charges: readonly { id: string }[]
  /** By `performance.now()`. */
  renewAt: number
  /** By `performance.now()`: from then on it is left to expire. */
  renewUntil: number
  /** Its position among the others. */
  livePlace: number
}

export class LiveReservationSet implements LiveReservations {
  /** In no order: the entries of a map that changes with every request outlive V8's young collections. */
  readonly #all: Live[] = []
  /** Those that are known only by their ids. */
  readonly #byId = new Map<string, Live>()
  readonly #leaseMs: number
  readonly #distributed: boolean

  constructor(leaseMs: number, { distributed = false }: { distributed?: boolean } = {}) {
    this.#leaseMs = leaseMs
    this.#distributed = distributed
  }

  join(live: Live): void {
    live.renewAt = performance.now() + this.#leaseMs / 3
    live.livePlace = this.#all.push(live) - 1
  }

  /** The last one takes its place. */
  leave(live: Live): void {
    if (this.#all[live.livePlace] !== live) return
    const last = this.#all.pop() as Live
    if (last === live) return
    last.livePlace = live.livePlace
    this.#all[last.livePlace] = last
  }

  add(userId: string, ids: readonly string[]): void {
    for (const id of ids) {
      const live = { userId, charges: [{ id }], renewAt: 0, renewUntil: Number.POSITIVE_INFINITY, livePlace: -1 }
      this.#byId.set(id, live)
      this.join(live)
    }
  }

  drop(ids: readonly string[]): void {
    for (const id of ids) {
      const live = this.#byId.get(id)
      if (live !== undefined) this.leave(live)
      this.#byId.delete(id)
    }
  }

  /** Renews what has run a third of its lease: a request that is over by then never costs a renewal. */
  async renew(db: Database): Promise<void> {
    const now = performance.now()
    for (const live of this.#all.filter(live => live.renewUntil <= now)) this.leave(live)
    const due = this.#all.filter(live => live.renewAt <= now)
    if (due.length === 0) return
    const all = due.flatMap(({ userId, charges }) => charges.map(({ id }) => ({ userId, id })))
    const statements = this.#distributed ? byUser(all) : [all]
    for (const held of statements) await renewReservations(db, held, this.#leaseMs, patienceOf(this.#leaseMs))
    for (const live of due) live.renewAt = now + this.#leaseMs / 3
  }
}

/** A dead connection answers nothing: there must be time for another attempt, and for one more. */
const patienceOf = (leaseMs: number): number => Math.min(Math.max(leaseMs / 8, 500), 5_000)
