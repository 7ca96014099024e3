// What this process holds, renewed while it lives: a reservation lives as long as its process, and a handler as long as it likes.
import type { Database } from '../store/database.ts'
import { type LiveReservations, renewReservations } from '../store/renew-reservations.ts'
import { byUser } from './by-user.ts'

interface Held {
  userId: string
  renewAt: number
}

export class LiveReservationSet implements LiveReservations {
  readonly #held = new Map<string, Held>()
  readonly #leaseMs: number
  readonly #distributed: boolean

  constructor(leaseMs: number, { distributed = false }: { distributed?: boolean } = {}) {
    this.#leaseMs = leaseMs
    this.#distributed = distributed
  }

  add(userId: string, ids: readonly string[]): void {
    const renewAt = performance.now() + this.#leaseMs / 3
    for (const id of ids) this.#held.set(id, { userId, renewAt })
  }

  drop(ids: readonly string[]): void {
    for (const id of ids) this.#held.delete(id)
  }

  /** Renews what has run a third of its lease: a request that is over by then never costs a renewal. */
  async renew(db: Database): Promise<void> {
    const now = performance.now()
    const due = [...this.#held].filter(([, held]) => held.renewAt <= now)
    if (due.length === 0) return
    const all = due.map(([id, { userId }]) => ({ userId, id }))
    const statements = this.#distributed ? byUser(all) : [all]
    for (const held of statements) await renewReservations(db, held, this.#leaseMs)
    for (const [, held] of due) held.renewAt = now + this.#leaseMs / 3
  }
}
