// The end of a request: charged or given back by the status that was sent, once, whichever path led there.
import type { FastifyBaseLogger } from 'fastify'
import type { Admitted, AdmittedCharge } from '../store/charge/admit.ts'
import { type QuotaHeaders, quotaHeaders } from './headers.ts'
import type { Hold } from './holds.ts'
import { judge } from './judge.ts'
import type { RequestMetering, Tariff } from './match.ts'
import { MeteredQuota } from './request-quota.ts'
import type { SettleContext } from './settle-context.ts'
import { SettleWrites, type Target } from './settle-writes.ts'

/**
 * No single hook ends every request: an aborted POST fires neither onResponse nor onRequestAbort, a hijacked reply no onSend, and a
 * bad header runs onSend(200) and then onSend(500). So this is a small state machine that may be told the status any number of
 * times, and acts only where the latest status calls for something other than what has been done.
 */
export class Settlement implements Hold {
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
  /** The status that the rule was last asked about, and its answer: asked again, it might say something else. */
  #judgedStatus = 0
  #isJudgedCharged = false
  readonly #writes: SettleWrites
  /** What was asked for last, and the promise of its write. */
  #wanted: 'held' | Target = 'held'
  #said: Promise<void> = NOTHING
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
    this.#writes = new SettleWrites(context, this)
    context.live.join(this)
    context.holds.add(this)
  }

  /** Charges or gives back, by this status. Resolves when it is written, or known to be owed; never rejects. */
  settle(statusCode: number): Promise<void> {
    const move = this.#moveTo(this.isCharged(statusCode) ? 'charged' : 'released', statusCode)
    // What is owed keeps its order; a reply does not wait for it.
    return this.#writes.isOwed ? NOTHING : move
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
    return quotaHeaders(this.#writes.costs(target), this.#clockOffset + performance.now())
  }

  /** An amount was set. After the charge it is amended as soon as that is written, together with other amounts that are set at this moment. */
  amend(): void {
    this.#writes.forgetCosts()
    // The headers must say it, if they are not sent yet. While a stream flows, it is not known what it will have cost.
    if (!this.isStreamed) this.isSaidCharged = undefined
    if (this.#isAmendDue || this.#wanted !== 'charged') return
    this.#isAmendDue = true
    this.#said = this.#amendAfter(this.#said)
  }

  async #amendAfter(before: Promise<void>): Promise<void> {
    await this.#writes.after(before)
    this.#isAmendDue = false
    await this.#writes.amend()
  }

  #moveTo(target: Target, statusCode: number): Promise<void> {
    if (target === this.#wanted) return this.#said
    this.#said =
      this.#wanted === 'held' ? this.#writes.turn(target, statusCode) : this.#turnAfter(this.#said, target, statusCode)
    this.#wanted = target
    this.#context.holds.delete(this)
    return this.#said
  }

  async #turnAfter(before: Promise<void>, target: Target, statusCode: number): Promise<void> {
    await this.#writes.after(before)
    await this.#writes.turn(target, statusCode)
  }
}

const NOTHING = Promise.resolve()
/** The status in the log of a request that was never answered. */
const NOT_ANSWERED = 503
