// The quota types by key: read at boot, when a missing key is asked for, and again while they are used.
import { FST_QUOTA_UNKNOWN_TYPE } from '../../quota/errors.ts'
import type { QuotaType } from '../../quota/quota-type.ts'
import { type Database, within } from '../database.ts'
import { listTypes } from './list-types.ts'

/** How long a missing key stays unknown: a client that guesses keys must not cost a query per guess. */
const UNKNOWN_FOR_MS = 1_000
/** After this the next use reads them again, so that an operator's changes reach every process; it does not wait for that … */
const FRESH_FOR_MS = 2_500
/** … but where nobody has used them for this long, it does: else a type that was switched on would let the request through. */
const STALE_AFTER_MS = 2 * FRESH_FOR_MS

export class TypeCatalogue {
  readonly #db: Database
  readonly #patienceMs: number
  #types = new Map<string, QuotaType>()
  /** By `performance.now()`: a clock that is set back must not make them look fresh. */
  #readAt = Number.NEGATIVE_INFINITY
  #begun = 0
  #shown = 0
  #reading: Promise<void> | undefined

  /** `patienceMs`: how long a request waits for a reading. */
  constructor(db: Database, patienceMs: number) {
    this.#db = db
    this.#patienceMs = patienceMs
  }

  async refresh(db = this.#db): Promise<void> {
    // Counted from the start of the reading: what is changed while it runs may not be in it.
    const startedAt = performance.now()
    const reading = ++this.#begun
    const types = await listTypes(db)
    // A later reading has answered already: it knows more.
    if (reading < this.#shown) return
    this.#shown = reading
    this.#types = new Map(types.map(type => [type.key, type]))
    this.#readAt = startedAt
  }

  /** For an operator, who may just have created it in another process, and does not guess. Throws FST_QUOTA_UNKNOWN_TYPE. */
  async find(key: string, where: string): Promise<QuotaType> {
    // Does not share a reading under way: it may have begun before.
    if (!this.#types.has(key)) await this.refresh()
    return await this.get(key, where)
  }

  /** Throws FST_QUOTA_UNKNOWN_TYPE, and FST_QUOTA_STORE where the types must be read and cannot be. */
  async get(key: string, where: string): Promise<QuotaType> {
    const known = this.known
    if (known === undefined || (!known.has(key) && this.#age > UNKNOWN_FOR_MS)) await this.#refreshOnce()
    const type = this.#types.get(key)
    if (type === undefined) throw new FST_QUOTA_UNKNOWN_TYPE(key, where)
    return type
  }

  /** The types as last read; each reading makes another map. A key that is not in it must be asked for, and every key where there is none. */
  get known(): ReadonlyMap<string, QuotaType> | undefined {
    const age = this.#age
    if (age <= FRESH_FOR_MS) return this.#types
    this.#refreshOnce().catch(() => {})
    return age <= STALE_AFTER_MS ? this.#types : undefined
  }

  get #age(): number {
    return performance.now() - this.#readAt
  }

  /** All who find the types too old at one moment share one reading. */
  #refreshOnce(): Promise<void> {
    this.#reading ??= this.refresh(within(this.#db, this.#patienceMs)).finally(() => {
      this.#reading = undefined
    })
    return this.#reading
  }
}
