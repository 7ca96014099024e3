// The quota types by key, read once and again when a key is asked for that is not there.
import { FST_QUOTA_UNKNOWN_TYPE } from '../quota/errors.ts'
import type { QuotaType } from '../quota/quota-type.ts'
import type { Database } from './database.ts'
import { listTypes } from './list-types.ts'

/** How long a key that is nowhere stays unknown: a client that guesses keys must not cost a query each. */
const UNKNOWN_FOR_MS = 1_000

export class TypeCatalogue {
  readonly #db: Database
  #types = new Map<string, QuotaType>()
  #readAt = 0

  constructor(db: Database) {
    this.#db = db
  }

  async refresh(): Promise<void> {
    this.#types = new Map((await listTypes(this.#db)).map(type => [type.key, type]))
    this.#readAt = Date.now()
  }

  /** What is known now. */
  peek(key: string): QuotaType | undefined {
    return this.#types.get(key)
  }

  /** Throws FST_QUOTA_UNKNOWN_TYPE. */
  async get(key: string, where: string): Promise<QuotaType> {
    if (!this.#types.has(key) && Date.now() - this.#readAt > UNKNOWN_FOR_MS) await this.refresh()
    const type = this.#types.get(key)
    if (type === undefined) throw new FST_QUOTA_UNKNOWN_TYPE(key, where)
    return type
  }
}
