// The quota types by key: read at boot, when a key is asked for that is not there, and again while they are used.
import { FST_QUOTA_UNKNOWN_TYPE } from '../../quota/errors.ts'
import type { QuotaType } from '../../quota/quota-type.ts'
import { type Database, within } from '../database.ts'
import { listTypes } from './list-types.ts'

/** How long a key that is nowhere stays unknown: a client that guesses keys must not cost a query each. */
const UNKNOWN_FOR_MS = 1_000
/** After this the next use reads them anew, so that what an operator changes reaches every process; it does not wait for that … */
const FRESH_FOR_MS = 2_500
/** … but where nobody used them for so long, it does: a type that was switched on would let it through. */
const STALE_AFTER_MS = 2 * FRESH_FOR_MS

export class TypeCatalogue {
  readonly #db: Database
  readonly #patienceMs: number
  #types = new Map<string, QuotaType>()
  /** By `performance.now()`: a clock that is put back must not make them young again. */
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
    // By the start of the reading: what is changed while it runs may not be in it.
    const startedAt = performance.now()
    const reading = ++this.#begun
    const types = await listTypes(db)
    // A later reading has answered already: it knows more.
    if (reading < this.#shown) return
    this.#shown = reading
    this.#types = new Map(types.map(type => [type.key, type]))
    this.#readAt = startedAt
  }

  /** For an operator, who may just have made it in another process, and does not guess. Throws FST_QUOTA_UNKNOWN_TYPE. */
  async find(key: string, where: string): Promise<QuotaType> {
    // Not one that is under way: it may have begun before.
    if (!this.#types.has(key)) await this.refresh()
    return await this.get(key, where)
  }

  /** Throws FST_QUOTA_UNKNOWN_TYPE, and FST_QUOTA_STORE where they must be read and cannot be. */
  async get(key: string, where: string): Promise<QuotaType> {
    const known = this.known
    if (known === undefined || (!known.has(key) && this.#age > UNKNOWN_FOR_MS)) await this.#refreshOnce()
    const type = this.#types.get(key)
    if (type === undefined) throw new FST_QUOTA_UNKNOWN_TYPE(key, where)
    return type
  }

  /** As they were read last: another map once they are read anew. What is not in it must be asked for, and everything where there is none. */
  get known(): ReadonlyMap<string, QuotaType> | undefined {
    const age = this.#age
    if (age <= FRESH_FOR_MS) return this.#types
    this.#refreshOnce().catch(() => {})
    return age <= STALE_AFTER_MS ? this.#types : undefined
  }

  get #age(): number {
    return performance.now() - this.#readAt
  }

  /** Those who find it too old at one moment share one reading. */
  #refreshOnce(): Promise<void> {
    this.#reading ??= this.refresh(within(this.#db, this.#patienceMs)).finally(() => {
      this.#reading = undefined
    })
    return this.#reading
  }
}
