// What is written at the end of a request, and what that leaves: what was held is charged or given back, and a charge may be undone or amended.
import type { FastifyBaseLogger } from 'fastify'
import type { Balance } from '../quota/balance.ts'
import type { AdmittedCharge } from '../store/charge/admit.ts'
import type { CommittedCharge } from '../store/charge/commit.ts'
import { type Settling, settlingOn } from '../store/group/settling.ts'
import { amendCharges } from './amendment.ts'
import { Committed } from './committed.ts'
import type { Cost } from './headers.ts'
import type { OwedListener } from './owed.ts'
import type { MeteredQuota, ReservedCharge } from './request-quota.ts'
import type { Renewed, SettleContext } from './settle-context.ts'
import { settledCosts } from './settled-costs.ts'

export type Target = 'charged' | 'released'

/** Undefined: a charge was undone, and that write returns no balances. */
type Balances = Map<string, Balance> | undefined

/** Who is charged for what. */
interface Metered extends Renewed {
  readonly charges: readonly AdmittedCharge[]
  readonly quota: MeteredQuota
  readonly endpoint: string
  readonly log: FastifyBaseLogger
}

/** One write at a time: the next is asked for `after` the one before. */
export class SettleWrites implements OwedListener<Balances> {
  readonly #context: SettleContext
  readonly #metered: Metered
  #state: 'held' | Target = 'held'
  /** Whether it was charged before the present state. */
  #wasCharged = false
  /** What is charged, as it stood when the charge was asked for. */
  #committed: readonly CommittedCharge[] = NO_CHARGES
  /** The status that led to the present state. */
  #statusCode = 0
  /** The balances that the last write returned, and what of this request they include. */
  #written: Map<string, Balance> | undefined
  #included: readonly CommittedCharge[] = NO_CHARGES
  /** The costs that were reported once the state was written: the headers say the same. */
  #told: Cost[] | undefined
  #owedUntil: Promise<void> | undefined
  #isOwed = false

  constructor(context: SettleContext, metered: Metered) {
    this.#context = context
    this.#metered = metered
  }

  get isOwed(): boolean {
    return this.#isOwed
  }

  /** Resolves when `write` is over, and what it may have left owed. */
  async after(write: Promise<void>): Promise<void> {
    await write
    await this.#owedUntil
  }

  /** Resolves when it is written, or known to be owed; never rejects. */
  turn(target: Target, statusCode: number): Promise<void> {
    this.#told = undefined
    this.#wasCharged = this.#state === 'charged'
    this.#state = target
    this.#statusCode = statusCode
    if (target === 'charged') this.#committed = this.#commits()
    const { owed, store } = this.#context
    return owed.attempt(this.#write(store), this)
  }

  /** Of a charge: as `turn`. */
  async amend(): Promise<void> {
    const former = this.#committed
    const charges = this.#commits()
    const { userId, endpoint, log } = this.#metered
    const charged = { userId, endpoint, log, listener: this }
    await amendCharges(this.#context, charged, { former, charges }, balances => {
      this.#committed = charges
      this.#note(new Map([...(this.#written ?? []), ...balances]))
      return this.costs('charged')
    })
  }

  /** The costs once what is held has become `target`, or as they were reported where it has. */
  costs(target: Target): Cost[] {
    const told = target === this.#state ? this.#told : undefined
    return told ?? settledCosts(this.#metered.quota.charges, target === 'charged', this.#written, this.#included)
  }

  /** An amount was set since the costs were reported. */
  forgetCosts(): void {
    this.#told = undefined
  }

  async again(amongMany: boolean): Promise<void> {
    const { db, store } = this.#context
    this.#note(await this.#write(amongMany ? store : settlingOn(db)))
  }

  written(balances: Balances): void {
    this.#note(balances)
    this.#report(this.#state as Target)
    this.#end()
  }

  owed(error: unknown, over: Promise<void>): void {
    const { userId, endpoint, log } = this.#metered
    const { emit, owed } = this.#context
    this.#isOwed = true
    this.#owedUntil = over.then(() => this.#end())
    emit({ name: 'owed', userId, endpoint, error, pending: owed.size }, log)
  }

  dropped(error: unknown): void {
    const { userId, endpoint, log } = this.#metered
    this.#context.emit({ name: 'dropped', userId, endpoint, error }, log)
    this.#end()
  }

  #commits(): CommittedCharge[] {
    const { charges, quota } = this.#metered
    return charges.map((charge, i) => new Committed(charge, quota.charges[i] as ReservedCharge, quota.metadata))
  }

  #write(store: Settling): Promise<Balances> {
    const { userId, endpoint, charges } = this.#metered
    if (this.#state === 'charged') return store.commit(userId, this.#committed, endpoint)
    if (this.#wasCharged) return store.voidCharges(userId, charges) as Promise<undefined>
    return store.release(userId, charges)
  }

  #note(balances: Balances): void {
    if (balances === undefined) return
    this.#written = balances
    this.#included = this.#state === 'charged' ? this.#committed : NO_CHARGES
    this.#told = undefined
  }

  #report(target: Target): void {
    const { userId, endpoint, log, quota } = this.#metered
    const { emit, denials } = this.#context
    // There may be room again.
    if (target === 'released' || quota.charges.some(costsLess)) denials.forget(userId)
    this.#told = this.costs(target)
    const charges = this.#told.map(({ type, remaining }, i) => ({
      type,
      // An amount that was set meanwhile is amended next. What is given back is what was held, whatever it would have cost.
      amount: (target === 'charged' ? this.#committed[i]?.amount : quota.charges[i]?.reserved) ?? 0,
      remaining
    }))
    if (target === 'charged') emit({ name: 'charged', userId, endpoint, charges }, log)
    else emit({ name: 'released', userId, endpoint, charges, statusCode: this.#statusCode }, log)
  }

  /** The reservation is renewed until here: what is owed must not be given to somebody else meanwhile. */
  #end(): void {
    this.#isOwed = false
    this.#context.live.leave(this.#metered)
  }
}

/** Less than was held for it. */
const costsLess = ({ amount, reserved }: ReservedCharge): boolean => amount < reserved

const NO_CHARGES: readonly CommittedCharge[] = []
