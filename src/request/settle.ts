// The end of a request: charged or given back by the status that was sent, once, whatever path led there.
import type { FastifyBaseLogger } from 'fastify'
import { type Balance, remainingOf } from '../quota/balance.ts'
import type { Emit } from '../quota/events.ts'
import { boundMetadata } from '../quota/metadata.ts'
import { isSuccess } from '../quota/outcome.ts'
import type { AdmittedCharge } from '../store/admit.ts'
import type { Database } from '../store/database.ts'
import { type Metering, type Settling, settlingOn } from '../store/metering.ts'
import type { LiveReservations } from '../store/renew-reservations.ts'
import type { DenialMemory } from './denial-memory.ts'
import { type Cost, type QuotaHeaders, quotaHeaders } from './headers.ts'
import type { Hold, Holds } from './holds.ts'
import type { RequestMetering } from './match.ts'
import type { Owed, OwedListener, Written } from './owed.ts'
import { MeteredQuota } from './request-quota.ts'

export interface SettleContext {
  db: Database
  /** For what a request waits for; what takes longer is written later. */
  store: Metering
  owed: Owed
  holds: Holds
  emit: Emit<FastifyBaseLogger>
  denials: DenialMemory
  /** Reservations that living work holds, and that must be kept from expiring. */
  live: LiveReservations
}

/**
 * No single hook ends every request: an aborted POST fires neither onResponse nor onRequestAbort, a hijacked reply no onSend, and a
 * bad header runs onSend(200) and then onSend(500). So this is a small state machine that may be told the status any number of
 * times, and moves only where the last word differs from what is done.
 */
export class Settlement implements Hold, OwedListener {
  readonly quota: MeteredQuota
  readonly #metering: RequestMetering
  readonly endpoint: string
  /** The client left before anything was sent: no later event will tell the status, so onSend must. */
  isAbandoned = false
  isLost = false
  place = -1
  /** What the headers speak of, once they are set. */
  isSaidCharged: boolean | undefined
  readonly #admitted: readonly AdmittedCharge[]
  readonly #context: SettleContext
  readonly #log: FastifyBaseLogger
  /** By the database's clock. */
  readonly #reservedAt: Date
  #state: 'held' | 'charged' | 'released' = 'held'
  /** The balances that the last write returned, and what it wrote. */
  #written: { state: 'charged' | 'released'; balances: Map<string, Balance> } | undefined
  /** What was asked for last, and its answer. */
  #wanted: 'held' | 'charged' | 'released' = 'held'
  #said: Promise<void> = NOTHING
  #owedUntil: Promise<void> | undefined
  #isOwed = false

  constructor(
    context: SettleContext,
    request: { userId: string; endpoint: string; metering: RequestMetering; log: FastifyBaseLogger },
    admission: { charges: AdmittedCharge[]; at: Date }
  ) {
    this.#context = context
    this.#admitted = admission.charges
    this.#log = request.log
    this.quota = new MeteredQuota(
      request.userId,
      admission.charges,
      request.metering.charges.map(charge => charge.type)
    )
    this.#metering = request.metering
    this.endpoint = request.endpoint
    this.#reservedAt = admission.at
    context.live.add(request.userId, this.#ids())
    context.holds.add(this)
  }

  /** Charges or gives back, by this status. Resolves when it is written, or known to be owed; never rejects. */
  settle(statusCode: number): Promise<void> {
    const move = this.#moveTo(this.isCharged(statusCode) ? 'charged' : 'released', statusCode)
    // What is owed keeps its order; a reply does not wait for it.
    return this.#isOwed ? NOTHING : move
  }

  /** Whether a reply with this status is charged, by the rule's own word; where that throws, by the default. */
  isCharged(statusCode: number): boolean {
    try {
      return this.#metering.isCharged(statusCode)
    } catch (error) {
      this.#log.error({ err: error, rule: this.#metering.source }, 'quota rule threw in charge; 2xx is charged instead')
      return isSuccess(statusCode)
    }
  }

  /** Nobody waits for a reply any more, and no status was sent: let it expire, unless the handler ends all the same. */
  abandon(isLost: boolean): void {
    this.isAbandoned = true
    this.isLost = isLost
    this.#context.live.drop(this.#ids())
    this.#context.holds.deleteLater(this)
  }

  /** The application is closing, and its handler has not ended. Should it still succeed, it is charged. */
  giveBack(): void {
    void this.#moveTo('released', NOT_ANSWERED)
  }

  /** What the reply's headers say: the balances as they are, or will be once what is held has become `target`. */
  headers(target: 'charged' | 'released'): QuotaHeaders {
    return quotaHeaders(this.#costs(target), this.#reservedAt)
  }

  #costs(target: 'charged' | 'released'): Cost[] {
    return this.quota.charges.map(({ type, balance, reserved, amount }) => {
      const cost = target === 'charged' ? amount : 0
      const written = this.#written?.balances.get(type)
      // Nothing is held any more in what was written; where the target is another by now, the cost comes on or goes off.
      if (written) return projected(written, 0, this.#written?.state === target ? 0 : cost || -amount, cost)
      return projected(balance, reserved, cost, cost)
    })
  }

  #moveTo(target: 'charged' | 'released', statusCode: number): Promise<void> {
    if (target === this.#wanted) return this.#said
    this.#said =
      this.#wanted === 'held' ? this.#turn(target, statusCode) : this.#turnAfter(this.#said, target, statusCode)
    this.#wanted = target
    this.#context.holds.delete(this)
    return this.#said
  }

  async #turnAfter(before: Promise<void>, target: 'charged' | 'released', statusCode: number): Promise<void> {
    await before
    await this.#owedUntil
    await this.#turn(target, statusCode)
  }

  async #turn(target: 'charged' | 'released', statusCode: number): Promise<void> {
    const write = this.#write(this.#state, target)
    this.#state = target
    if (target === 'charged') this.quota.close()
    const { db, owed, store } = this.#context
    const again = () => write(settlingOn(db))
    const { outcome, over } = await owed.attempt(() => write(store), again, this)
    this.#isOwed = outcome === 'owed'
    this.#report(outcome, target, statusCode)
    if (over === undefined) this.#end()
    else this.#owedUntil = over.then(() => this.#end())
  }

  /** Renewed until here: what is owed must not be given to somebody else meanwhile. */
  #end(): void {
    this.#isOwed = false
    this.#context.live.drop(this.#ids())
  }

  #write(from: 'held' | 'charged' | 'released', target: 'charged' | 'released'): Write {
    const { userId } = this.quota
    const written = (balances: Map<string, Balance>) => {
      this.#written = { state: target, balances }
    }
    if (target === 'charged') {
      const charges = this.#admitted.map((charge, i) => ({ ...charge, ...this.#logged(i) }))
      return store => store.commit(userId, charges, this.endpoint).then(written)
    }
    if (from === 'charged') return store => store.voidCharges(userId, this.#admitted)
    return store => store.release(userId, this.#admitted).then(written)
  }

  /** A charge above what was reserved may have gone past the limit: the row says so. */
  #logged(i: number) {
    const { amount, reserved } = this.quota.charges[i] as { amount: number; reserved: number }
    const metadata = boundMetadata(this.quota.metadata)
    return { amount, metadata: amount > reserved ? { ...metadata, over_reservation: amount - reserved } : metadata }
  }

  #report(outcome: Written, target: 'charged' | 'released', statusCode: number): void {
    if (outcome !== 'written') return
    // There may be room again.
    if (target === 'released') this.#context.denials.forget(this.quota.userId)
    const facts = this.#costs(target).map(({ type, remaining }, i) => ({
      type,
      amount: this.quota.charges[i]?.amount ?? 0,
      remaining
    }))
    const common = { userId: this.quota.userId, endpoint: this.endpoint, charges: facts }
    this.#context.emit(
      target === 'charged' ? { name: 'charged', ...common } : { name: 'released', ...common, statusCode },
      this.#log
    )
  }

  owed(error: unknown): void {
    const { emit, owed } = this.#context
    const { userId } = this.quota
    emit({ name: 'owed', userId, endpoint: this.endpoint, error, pending: owed.size }, this.#log)
  }

  dropped(error: unknown): void {
    const { userId } = this.quota
    this.#context.emit({ name: 'dropped', userId, endpoint: this.endpoint, error }, this.#log)
  }

  #ids = () => this.#admitted.map(charge => charge.id)
}

const NOTHING = Promise.resolve()
/** The status in the log of a request that was never answered. */
const NOT_ANSWERED = 503

type Write = (store: Settling) => Promise<void>

/** What the balance will be once `gone` is held no more and `charged` is used. Written out: spread, these objects outlived young collections. */
function projected(balance: Balance, gone: number, charged: number, cost: number): Cost {
  const { type, limit, periodStart, resetsAt } = balance
  const used = balance.used + charged
  const reserved = Math.max(balance.reserved - gone, 0)
  return { type, limit, used, reserved, remaining: remainingOf(limit, used, reserved), periodStart, resetsAt, cost }
}
