// The end of a request: charged or given back by the status that was sent, once, whichever path led there.
import type { FastifyBaseLogger } from 'fastify'
import type { Balance } from '../quota/balance.ts'
import type { Admitted, AdmittedCharge } from '../store/charge/admit.ts'
import type { CommittedCharge } from '../store/charge/commit.ts'
import { type Settling, settlingOn } from '../store/group/settling.ts'
import { amendCharges } from './amendment.ts'
import { Committed } from './committed.ts'
import { type Cost, type QuotaHeaders, quotaHeaders } from './headers.ts'
import type { Hold } from './holds.ts'
import { judge } from './judge.ts'
import type { RequestMetering, Tariff } from './match.ts'
import type { OwedListener } from './owed.ts'
import { MeteredQuota, type ReservedCharge } from './request-quota.ts'
import type { SettleContext } from './settle-context.ts'
import { settledCosts } from './settled-costs.ts'

type Target = 'charged' | 'released'

/** Undefined: a charge was undone, and that write returns no balances. */
type Balances = Map<string, Balance> | undefined

/**
 * No single hook ends every request: an aborted POST fires neither onResponse nor onRequestAbort, a hijacked reply no onSend, and a
 * bad header runs onSend(200) and then onSend(500). So this is a small state machine that may be told the status any number of
 * times, and acts only where the latest status calls for something other than what has been done.
 */
export class Settlement implements Hold, OwedListener<Balances> {
  readonly userId: string
  readonly quota: MeteredQuota
  readonly endpoint: string
  readonly charges: readonly AdmittedCharge[]
  readonly log: FastifyBaseLogger
  /** The client left before anything was sent: no later event will tell the status, so onSend must. */
  isAbandoned = false
  isLost = false
  /** The handler, or a hook, takes its reply for a promise: it answers later. */
  isAwaited = false
  /** The route's, in milliseconds; 0: it has none. */
  handlerTimeout = 0
  place = -1
  forgetting: NodeJS.Timeout | undefined
  livePlace = -1
  renewAt = 0
  renewUntil = Number.POSITIVE_INFINITY
  /** Whether the headers, once they are set, say that it is charged. */
  isSaidCharged: boolean | undefined
  /** What the headers said, where they must be said again with the head. */
  saidAgain: QuotaHeaders | undefined
  isStreamed = false
  /** The status of a reply that has passed onSend, and is charged or given back only when it is over. */
  openStatus: number | undefined
  readonly #metering: RequestMetering
  readonly #context: SettleContext
  /** How far the database's clock is ahead of `performance.now()`, as of the admission. */
  readonly #clockOffset: number
  #isPastBody = false
  /** The handler has ended, and Fastify sends nothing for it. */
  #isUnanswered = false
  #state: 'held' | Target = 'held'
  /** Whether it was charged before the present state. */
  #wasCharged = false
  /** What is charged, as it stood when the charge was asked for. */
  #committed: readonly CommittedCharge[] = NO_CHARGES
  /** The status that led to the present state. */
  #statusCode = 0
  /** The status that the rule was last asked about, and its answer: asked again, it might say something else. */
  #judgedStatus = 0
  #isJudgedCharged = false
  /** The balances that the last write returned, and what of this request they include. */
  #written: Map<string, Balance> | undefined
  #included: readonly CommittedCharge[] = NO_CHARGES
  /** The costs that were reported once the state was written: the headers say the same. */
  #told: Cost[] | undefined
  /** What was asked for last, and the promise of its write. */
  #wanted: 'held' | Target = 'held'
  #said: Promise<void> = NOTHING
  #owedUntil: Promise<void> | undefined
  #isOwed = false
  #isAmendDue = false

  constructor(
    context: SettleContext,
    userId: string,
    { url, metering }: Tariff,
    { charges, at }: Admitted,
    log: FastifyBaseLogger
  ) {
    this.userId = userId
    this.quota = new MeteredQuota(userId, charges, metering.charges, this)
    this.endpoint = url
    this.charges = charges
    this.#context = context
    this.log = log
    this.#metering = metering
    this.#clockOffset = at.getTime() - performance.now()
    context.live.join(this)
    context.holds.add(this)
  }

  /** Charges or gives back, by this status. Resolves when it is written, or known to be owed; never rejects. */
  settle(statusCode: number): Promise<void> {
    const move = this.#moveTo(this.isCharged(statusCode) ? 'charged' : 'released', statusCode)
    // What is owed keeps its order; a reply does not wait for it.
    return this.#isOwed ? NOTHING : move
  }

  /** Whether a reply with this status is charged, according to the rule; where it gives no answer, by the default. */
  isCharged(statusCode: number): boolean {
    if (this.#judgedStatus !== statusCode) {
      this.#judgedStatus = statusCode
      this.#isJudgedCharged = judge(this.#metering, statusCode, this.log)
    }
    return this.#isJudgedCharged
  }

  /**
   * Nobody waits for a reply any more, and no status was sent. What a handler still works for is held for a while longer, or else the next client
   * would take the place of one that leaves; after that, or where Fastify waits for a body that never comes whole, it is left to expire.
   */
  abandon(isTorn: boolean): void {
    const { live, holds } = this.#context
    this.isAbandoned = true
    this.isLost = isTorn && !this.#isPastBody
    if (this.isLost) {
      live.leave(this)
      holds.deleteLater(this, 0)
    } else if (this.#isUnanswered) this.#giveBackHeld()
    else this.#holdOn()
  }

  /** Its client has left, or will be known to have: nobody is answered. */
  endUnanswered(): void {
    this.#isUnanswered = true
    if (this.isAbandoned) this.#giveBackHeld()
  }

  /** What was charged before that stays charged. */
  #giveBackHeld(): void {
    if (this.#wanted === 'held') this.giveBack()
  }

  /** Fastify no longer waits for the body: a handler that needs the rest reads it, and is told where it is torn. */
  passBody(): void {
    this.#isPastBody = true
    if (!this.isLost) return
    this.isLost = false
    this.#context.live.join(this)
    this.#holdOn()
  }

  #holdOn(): void {
    const { holds, patienceMs } = this.#context
    this.renewUntil = performance.now() + patienceMs
    holds.deleteLater(this, patienceMs)
  }

  /** No answer will come, or the application is closing and the handler has not ended. Should it still succeed, it is charged. */
  giveBack(): void {
    void this.#moveTo('released', NOT_ANSWERED)
  }

  /** What the reply's headers say: the balances as they are, or will be once what is held has become `target`. */
  headers(target: Target): QuotaHeaders {
    const told = target === this.#state ? this.#told : undefined
    return quotaHeaders(told ?? this.#costs(target), this.#clockOffset + performance.now())
  }

  #costs(target: Target): Cost[] {
    return settledCosts(this.quota.charges, target === 'charged', this.#written, this.#included)
  }

  /** An amount was set. After the charge it is amended as soon as that is written, together with other amounts that are set at this moment. */
  amend(): void {
    this.#told = undefined
    // The headers must say it, if they are not sent yet. While a stream flows, it is not known what it will have cost.
    if (!this.isStreamed) this.isSaidCharged = undefined
    if (this.#isAmendDue || this.#wanted !== 'charged') return
    this.#isAmendDue = true
    this.#said = this.#amendAfter(this.#said)
  }

  async #amendAfter(before: Promise<void>): Promise<void> {
    await before
    await this.#owedUntil
    this.#isAmendDue = false
    const former = this.#committed
    const charges = this.#commits()
    await amendCharges(this.#context, this, { former, charges }, balances => {
      this.#committed = charges
      this.#note(new Map([...(this.#written ?? []), ...balances]))
      return this.#costs('charged')
    })
  }

  #commits(): CommittedCharge[] {
    const { charges, metadata } = this.quota
    return this.charges.map((charge, i) => new Committed(charge, charges[i] as ReservedCharge, metadata))
  }

  #moveTo(target: Target, statusCode: number): Promise<void> {
    if (target === this.#wanted) return this.#said
    this.#said =
      this.#wanted === 'held' ? this.#turn(target, statusCode) : this.#turnAfter(this.#said, target, statusCode)
    this.#wanted = target
    this.#context.holds.delete(this)
    return this.#said
  }

  async #turnAfter(before: Promise<void>, target: Target, statusCode: number): Promise<void> {
    await before
    await this.#owedUntil
    await this.#turn(target, statusCode)
  }

  #turn(target: Target, statusCode: number): Promise<void> {
    this.#told = undefined
    this.#wasCharged = this.#state === 'charged'
    this.#state = target
    this.#statusCode = statusCode
    const { owed, store } = this.#context
    if (target === 'charged') this.#committed = this.#commits()
    return owed.attempt(this.#write(store), this)
  }

  #write(store: Settling): Promise<Balances> {
    const { userId, endpoint, charges } = this
    if (this.#state === 'charged') return store.commit(userId, this.#committed, endpoint)
    if (this.#wasCharged) return store.voidCharges(userId, charges) as Promise<undefined>
    return store.release(userId, charges)
  }

  async again(): Promise<void> {
    this.#note(await this.#write(settlingOn(this.#context.db)))
  }

  #note(balances: Balances): void {
    if (balances === undefined) return
    this.#written = balances
    this.#included = this.#state === 'charged' ? this.#committed : NO_CHARGES
    this.#told = undefined
  }

  written(balances: Balances): void {
    this.#note(balances)
    this.#report(this.#state as Target)
    this.#end()
  }

  #report(target: Target): void {
    const { userId, endpoint, quota } = this
    const { emit, denials } = this.#context
    // There may be room again.
    if (target === 'released' || quota.charges.some(costsLess)) denials.forget(userId)
    this.#told = this.#costs(target)
    const charges = this.#told.map(({ type, remaining }, i) => ({
      type,
      // What is given back is what was held, whatever it would have cost.
      amount: (target === 'charged' ? quota.charges[i]?.amount : quota.charges[i]?.reserved) ?? 0,
      remaining
    }))
    if (target === 'charged') emit({ name: 'charged', userId, endpoint, charges }, this.log)
    else emit({ name: 'released', userId, endpoint, charges, statusCode: this.#statusCode }, this.log)
  }

  owed(error: unknown, over: Promise<void>): void {
    const { userId, endpoint } = this
    const { emit, owed } = this.#context
    this.#isOwed = true
    this.#owedUntil = over.then(() => this.#end())
    emit({ name: 'owed', userId, endpoint, error, pending: owed.size }, this.log)
  }

  dropped(error: unknown): void {
    const { userId, endpoint } = this
    this.#context.emit({ name: 'dropped', userId, endpoint, error }, this.log)
    this.#end()
  }

  /** The reservation is renewed until here: what is owed must not be given to somebody else meanwhile. */
  #end(): void {
    this.#isOwed = false
    this.#context.live.leave(this)
  }
}

/** Less than was held for it. */
const costsLess = ({ amount, reserved }: ReservedCharge): boolean => amount < reserved

const NOTHING = Promise.resolve()
const NO_CHARGES: readonly CommittedCharge[] = []
/** The status in the log of a request that was never answered. */
const NOT_ANSWERED = 503
