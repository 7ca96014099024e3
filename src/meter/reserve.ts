// Holds amounts for work that outlives a request: charged or given back when it ends.

import { isAmount } from '../quota/amount.ts'
import type { Balance } from '../quota/balance.ts'
import { requireRoom, withoutRoom } from '../quota/counter.ts'
import {
  FST_QUOTA_EXCEEDED,
  FST_QUOTA_INVALID_CALL,
  FST_QUOTA_NOT_RESERVED,
  FST_QUOTA_SETTLED,
  FST_QUOTA_UNKNOWN_USER
} from '../quota/errors.ts'
import { deniedEvent } from '../quota/events.ts'
import { boundMetadata, type Metadata } from '../quota/metadata.ts'
import type { QuotaTypeKey } from '../quota/rule.ts'
import type { Admission, AdmittedCharge, WantedCharge } from '../store/charge/admit.ts'
import { chargeId } from '../store/charge/charge-id.ts'
import type { CommittedCharge } from '../store/charge/commit.ts'
import { mayBeDone } from '../store/connection/may-be-done.ts'
import { stateOf, withDeadline } from '../store/database.ts'
import { requireAmount, requireKnown, requireOptions, requireText, requireUser } from './arguments.ts'
import type { MeterContext } from './context.ts'

/** What to hold: a type's key (amount 1), or amounts by type. */
export type ReserveCharges =
  | QuotaTypeKey
  | { type: QuotaTypeKey; amount?: number }
  | readonly (QuotaTypeKey | { type: QuotaTypeKey; amount?: number })[]

export interface ReserveOptions {
  /** Milliseconds, 100 to 2^31−1, after which it is given back, whether this process lives or not. Default: held while it lives. */
  ttlMs?: number
  /** Where the charge came from, for the usage log. */
  endpoint?: string
  /** Goes into the usage log. */
  metadata?: Metadata
}

/**
 * Amounts that are held. `commit` and `release` may be called again after they rejected with FST_QUOTA_STORE, and passed on as functions:
 * `.finally(job.release)`.
 */
export interface Reservation {
  /** The id that its first log row will have. */
  readonly id: string
  /** When it is given back by itself, unless it is renewed, as it is without `ttlMs` while this process lives. */
  readonly expiresAt: Date
  /**
   * Charges what was held, or what it really cost: `amounts` by type, even above what was held and past the limit. Returns the balances
   * afterwards, by type. Charges even after it has expired. A second call gets the first answer. Rejects with FST_QUOTA_SETTLED after
   * `release`, with FST_QUOTA_NOT_RESERVED for a type that was not reserved, with FST_QUOTA_INVALID_AMOUNT where a counter would pass 2^53−1,
   * and with FST_QUOTA_UNKNOWN_USER where the user was deleted meanwhile.
   */
  commit(options?: {
    amounts?: Readonly<Partial<Record<QuotaTypeKey, number>>>
    metadata?: Metadata
  }): Promise<Record<string, Balance>>
  /**
   * Gives it back. A second call does nothing more. Rejects with FST_QUOTA_SETTLED after `commit`. After a `commit` that rejected with
   * FST_QUOTA_STORE it undoes what the database may still have charged, and rejects likewise until it is known what became of that `commit`.
   */
  release(): Promise<void>
}

export async function reserveFor(
  context: MeterContext,
  userId: string,
  written: ReserveCharges,
  options: ReserveOptions
): Promise<Reservation> {
  requireUser(userId)
  requireOptions(options, ['ttlMs', 'endpoint', 'metadata'] satisfies (keyof ReserveOptions)[])
  requireText('endpoint', options.endpoint)
  requireTtl(options.ttlMs)
  const { charges, switchedOff } = await readCharges(context, written)
  const leaseMs = options.ttlMs ?? context.leaseMs
  const admission = await hold(context, userId, charges, leaseMs)
  if (!admission.admitted) {
    const error = new FST_QUOTA_EXCEEDED(admission.violations)
    context.count(deniedEvent(userId, options.endpoint ?? null, admission, error.statusCode as number))
    throw error
  }
  const ids = charges.map(charge => charge.id)
  if (options.ttlMs === undefined) context.live.add(userId, ids)
  const expiresAt = new Date(admission.at.getTime() + leaseMs)
  return new HeldReservation(context, { userId, charges: admission.charges, switchedOff }, options, expiresAt)
}

/** Where every type is switched off there is nothing to hold. */
const hold = async (
  context: MeterContext,
  userId: string,
  charges: readonly WantedCharge[],
  leaseMs: number
): Promise<Admission> =>
  charges.length === 0
    ? { admitted: true, charges: [], at: new Date() }
    : await context.reserving(userId, charges, () => context.store.reserve(userId, charges, leaseMs))

/** SQLSTATE of a charge whose user is gone. */
const DELETED = '23502'

interface Held {
  userId: string
  charges: readonly AdmittedCharge[]
  /** Asked for, and not held: an operator has switched them off. */
  switchedOff: readonly string[]
}

class HeldReservation implements Reservation {
  readonly id: string
  readonly expiresAt: Date
  readonly #context: MeterContext
  readonly #userId: string
  readonly #charges: readonly AdmittedCharge[]
  readonly #switchedOff: readonly string[]
  readonly #options: ReserveOptions
  #committed: Promise<Record<string, Balance>> | undefined
  #released: Promise<void> | undefined
  /** For each commit that rejected: whether it may still have been carried out. */
  readonly #doubts: Promise<boolean>[] = []

  constructor(context: MeterContext, { userId, charges, switchedOff }: Held, options: ReserveOptions, expiresAt: Date) {
    this.id = charges[0]?.id ?? chargeId()
    this.#switchedOff = switchedOff
    this.expiresAt = expiresAt
    this.#context = context
    this.#userId = userId
    this.#charges = charges
    this.#options = options
    this.commit = this.commit.bind(this)
    this.release = this.release.bind(this)
  }

  async commit(final: Parameters<Reservation['commit']>[0] = {}): Promise<Record<string, Balance>> {
    requireOptions(final, ['amounts', 'metadata'])
    const { amounts = {}, metadata } = final
    if (this.#released) throw new FST_QUOTA_SETTLED('released')
    if (typeof amounts !== 'object' || amounts === null || Array.isArray(amounts))
      throw new FST_QUOTA_INVALID_CALL('amounts', 'must be an object such as { renders: 7 }')
    const charges = this.#charges.map(charge =>
      this.#final(charge, amounts, { ...boundMetadata(this.#options.metadata), ...boundMetadata(metadata) })
    )
    for (const type of Object.keys(amounts))
      if (!charges.some(charge => charge.type === type) && !this.#switchedOff.includes(type))
        throw new FST_QUOTA_NOT_RESERVED(type)
    this.#committed ??= this.#write(async () => {
      if (charges.length === 0) return {}
      const balances = await this.#charge(charges)
      const told = Object.fromEntries(charges.map(({ type, balance }) => [type, balances.get(type) ?? { ...balance }]))
      this.#count('charged', charges, told)
      return told
    })
    return await this.#committed.catch(error => {
      this.#committed = undefined
      throw error
    })
  }

  async #charge(charges: readonly CommittedCharge[]): Promise<Map<string, Balance>> {
    try {
      return await this.#context.store.commit(this.#userId, charges, this.#endpoint, true)
    } catch (error) {
      if (stateOf(error) === DELETED) {
        this.#context.live.drop(charges.map(({ id }) => id))
        throw new FST_QUOTA_UNKNOWN_USER()
      }
      const [most] = charges.filter(c => c.amount > c.heldAmount).sort((a, b) => b.amount - a.amount)
      if (most !== undefined && stateOf(error) === '23514') throw withoutRoom(`amounts.${most.type}`, most.amount)
      this.#doubts.push(mayBeDone(error, this.#context.storeTimeoutMs))
      throw error
    }
  }

  async release(): Promise<void> {
    if (this.#committed) throw new FST_QUOTA_SETTLED('charged')
    this.#released ??= this.#write(async () => {
      const balances = await this.#giveBack()
      this.#count('released', this.#charges, Object.fromEntries(balances))
    })
    await this.#released.catch(error => {
      this.#released = undefined
      throw error
    })
  }

  /** Not before every commit is over: one that came later would charge what is given back now. */
  async #giveBack(): Promise<ReadonlyMap<string, Balance>> {
    const { store, storeTimeoutMs } = this.#context
    const mayBeCharged = (await withDeadline(Promise.all(this.#doubts), storeTimeoutMs)).includes(true)
    if (!mayBeCharged) return await store.release(this.#userId, this.#charges)
    await store.voidCharges(this.#userId, this.#charges)
    return new Map()
  }

  /** The reservation stays renewed until the write has gone through. */
  async #write<T>(work: () => Promise<T>): Promise<T> {
    const result = await work()
    this.#context.live.drop(this.#charges.map(charge => charge.id))
    this.#context.changed(this.#userId)
    return result
  }

  #count(name: 'charged' | 'released', charges: readonly AdmittedCharge[], told: Record<string, Balance>): void {
    const facts = charges.map(({ type, amount, balance }) => {
      const { remaining } = told[type] ?? balance
      return { type, amount, remaining }
    })
    const event = { userId: this.#userId, endpoint: this.#endpoint, charges: facts }
    this.#context.count(name === 'charged' ? { name, ...event } : { name, ...event, statusCode: null })
  }

  get #endpoint(): string | null {
    return this.#options.endpoint ?? null
  }

  #final(charge: AdmittedCharge, amounts: Readonly<Partial<Record<string, number>>>, metadata: Metadata) {
    const given = Object.hasOwn(amounts, charge.type) ? amounts[charge.type] : undefined
    const amount = given === undefined ? charge.amount : given
    requireAmount(amount, `amounts.${charge.type}`)
    requireRoom(`amounts.${charge.type}`, amount, charge.balance, charge.amount)
    const over = amount > charge.amount ? { over_reservation: amount - charge.amount } : {}
    return { ...charge, amount, heldAmount: charge.amount, metadata: { ...boundMetadata(metadata), ...over } }
  }
}

async function readCharges(
  { types }: MeterContext,
  written: ReserveCharges
): Promise<{ charges: WantedCharge[]; switchedOff: string[] }> {
  const list = (Array.isArray(written) ? written : [written]) as (string | { type?: string; amount?: number } | null)[]
  if (list.length === 0) throw new FST_QUOTA_INVALID_CALL('charges', 'names no quota type')
  const charges: WantedCharge[] = []
  const switchedOff: string[] = []
  for (const item of list) {
    const { type: key, amount = 1 } = typeof item === 'string' ? { type: item } : (item ?? {})
    if (typeof key !== 'string')
      throw new FST_QUOTA_INVALID_CALL('charges', "must be a quota type's key, { type, amount }, or an array of them")
    if (typeof item === 'object') requireKnown('charges', item as object, ['type', 'amount'])
    if (!isAmount(amount)) requireAmount(amount, `The amount of '${key}'`)
    if (charges.some(charge => charge.type === key) || switchedOff.includes(key))
      throw new FST_QUOTA_INVALID_CALL('charges', `names '${key}' twice; add the amounts up`)
    const type = await types.get(key, 'reserved through app.quota.reserve')
    if (type.isActive) charges.push({ id: chargeId(), typeId: type.id, type: key, amount })
    else switchedOff.push(key)
  }
  return { charges, switchedOff }
}

function requireTtl(ttlMs: unknown): void {
  if (ttlMs === undefined || (Number.isInteger(ttlMs) && (ttlMs as number) >= 100 && (ttlMs as number) < 2 ** 31))
    return
  throw new FST_QUOTA_INVALID_CALL('ttlMs', 'must be a whole number of milliseconds from 100 to 2^31−1')
}
