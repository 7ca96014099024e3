// Which of a URL's servers is asked: one at a time, the same for all connections, and the next where that one is unreachable or read-only.
import { stateOf } from '../database.ts'
import { NOT_TAKEN } from './channel.ts'
import type { Address } from './server-url.ts'

/** All servers are tried no more often than this: while none will do, every statement would start another round. */
const ROUND_MS = 1_000
/** SQLSTATE of a standby, and of a server that was made read-only. */
const ONLY_READS = '25006'
/** SQLSTATE of one that is starting or stopping. */
const NOT_NOW = '57P03'

/**
 * postgres.js (3.4.9) is given one address at a time. Given several that refuse, it tries one after the other without pause or end, even
 * once it is closed.
 */
export class Hosts {
  readonly #addresses: readonly Address[]
  #generation = 0
  #roundAt = Number.NEGATIVE_INFINITY

  constructor(addresses: readonly Address[]) {
    this.#addresses = addresses
  }

  get address(): Address {
    return this.#addresses[this.#generation % this.#addresses.length] as Address
  }

  /** How often a server was left. A connection of an older generation leads to one that is no longer asked. */
  get generation(): number {
    return this.#generation
  }

  /**
   * Whether a statement that failed with this error, and did nothing, may be tried again: on the next server or, with one address, on a new
   * connection, which behind a name or proxy that follows the primary leads elsewhere. `wasSent`: it had a connection, of this generation.
   */
  isElsewhere(error: unknown, generation: number, wasSent: boolean): boolean {
    const state = stateOf(error)
    if (state === undefined) return false
    // Only the connection is gone.
    if (state === NOT_TAKEN && !wasSent) return true
    const isAway = !wasSent && this.#addresses.length > 1 && (state === NOT_NOW || !SQLSTATE.test(state))
    return (state === ONLY_READS || isAway) && this.#leave(generation)
  }

  /** False: all servers were tried just now. */
  #leave(generation: number): boolean {
    // Another statement has left it already.
    if (generation !== this.#generation) return true
    const isRound = (generation + 1) % this.#addresses.length === 0
    const now = performance.now()
    if (isRound && now - this.#roundAt < ROUND_MS) return false
    if (isRound) this.#roundAt = now
    this.#generation += 1
    return true
  }
}

/** Any other code is the driver's, or the network's. */
const SQLSTATE = /^(?=.*\d)[0-9A-Z]{5}$/
