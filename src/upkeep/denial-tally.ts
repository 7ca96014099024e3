// Denials of this process that are not in the table yet: added up, so that a user who is refused a million times costs a row, not a million.
import type { QuotaEvent } from '../quota/events.ts'
import type { Database } from '../store/database.ts'
import { countDenials, type DenialCount } from '../store/upkeep/count-denials.ts'
import { byUser } from './by-user.ts'

const HOUR_MS = 3_600_000
/** Rows per statement. */
const BATCH = 1000

export class DenialTally {
  /** By user: a text of user, type and hour would be made anew for each denial. */
  #counts = new Map<string, DenialCount[]>()
  #flushing: Promise<void> = Promise.resolve()
  readonly #db: Database
  readonly #distributed: boolean

  constructor(db: Database, { distributed = false }: { distributed?: boolean } = {}) {
    this.#db = db
    this.#distributed = distributed
  }

  hear(event: QuotaEvent): void {
    if (event.name !== 'denied') return
    const hour = Math.floor(event.at.getTime() / HOUR_MS) * HOUR_MS
    for (const { type } of event.charges) this.#add(event.userId, type, hour, 1)
  }

  forget(userId: string): void {
    this.#counts.delete(userId)
  }

  /** Writes down what was heard until now. What cannot be written stays for the next time. */
  flush(): Promise<void> {
    // One after the other: the caller then reads what was heard before, even where a flush was already under way.
    const flushed = this.#flushing.then(() => this.#write())
    this.#flushing = flushed.catch(() => {})
    return flushed
  }

  async #write(): Promise<void> {
    const counts = [...this.#counts.values()].flat()
    this.#counts = new Map()
    const batches = this.#distributed ? byUser(counts) : inBatches(counts)
    for (const [i, batch] of batches.entries()) {
      try {
        await countDenials(this.#db, batch)
      } catch (error) {
        for (const { userId, type, hour, denials } of batches.slice(i).flat())
          this.#add(userId, type, hour.getTime(), denials)
        throw error
      }
    }
  }

  #add(userId: string, type: string, hour: number, denials: number): void {
    const counts = this.#counts.get(userId)
    const known = counts?.find(count => count.type === type && count.hour.getTime() === hour)
    if (known !== undefined) known.denials += denials
    else if (counts !== undefined) counts.push({ userId, type, hour: new Date(hour), denials })
    else this.#counts.set(userId, [{ userId, type, hour: new Date(hour), denials }])
  }
}

const inBatches = (counts: readonly DenialCount[]): DenialCount[][] =>
  Array.from({ length: Math.ceil(counts.length / BATCH) }, (_, i) => counts.slice(i * BATCH, (i + 1) * BATCH))
