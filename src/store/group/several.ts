// Requests with several charges each, all or none: grouped where all of a user's fit, one user at a time where they do not.
import type { Balance } from '../../quota/balance.ts'
import { type Admission, fits, refusalOfSeveral, type WantedCharge } from '../charge/admit.ts'
import { type CommittedCharge, commit, type HeldCharge } from '../charge/commit.ts'
import { balanceOf } from '../charge/counter-balance.ts'
import type { HeldSince } from '../charge/held-since.ts'
import { release } from '../charge/release.ts'
import { reserve } from '../charge/reserve.ts'
import { SLOW_MS } from '../connection/shared-lanes.ts'
import type { Database, Shared } from '../database.ts'
import type { Asking } from './asking.ts'
import { chargeSeveral } from './charge-many.ts'
import { AGAIN, Group } from './group.ts'
import { HoldingSeveral } from './hold-several.ts'
import type { Moved, Settlement } from './move-one-user.ts'
import type { Openings } from './openings.ts'
import { SettlingMany } from './settle-many.ts'
import type { Turns } from './turns.ts'
import { UserTurns } from './user-turns.ts'
import { admittedBy, CommittingSeveral, ReservingSeveral } from './waiting.ts'
import { type Held, OUTDATED, type Told } from './wishes.ts'

type Balances = Map<string, Balance>

/** Each is two or three rows. */
const GROUP_SIZE = 40
const NO_BALANCES: Balances = new Map()
/** Nothing is told of a request where the statement was refused. */
const NOTHING: never[] = []

/** Several reservations of a request, all of which are settled, or none. */
interface Settling {
  userId: string
  settlements: readonly Settlement[]
}

/** What the requests of a statement ask with, and what they wait for. */
export interface Context {
  asking: Asking
  openings: Openings
  heldSince: HeldSince
}

export class Several {
  readonly #context: Context
  readonly #holds: Group<ReservingSeveral, Told[], Admission> | undefined
  readonly #charges: Group<CommittingSeveral, true | undefined, Balances> | undefined
  readonly #settlements: Group<Settling, (Moved | undefined)[], (Moved | undefined)[]> | undefined
  readonly #holding: HoldingSeveral
  /** Those of one user that were not held together with others, in order of arrival. */
  readonly #apart = new Map<string, Group<ReservingSeveral, Admission, Admission>>()
  /** Where no statement may touch many users. */
  readonly #reserving = new UserTurns()
  readonly #settling = new UserTurns()

  /** `turns`: those of the statements that touch many users, where these may. */
  constructor(context: Context, turns: Turns | undefined) {
    const { asking, heldSince } = context
    this.#context = context
    this.#holding = new HoldingSeveral(heldSince)
    if (turns === undefined) return
    const { holding, charging } = asking.db
    const shared = { size: () => GROUP_SIZE, more: { spareAfterMs: SLOW_MS }, turns }
    const on = (lane: Shared, isSpare: boolean) => (isSpare ? lane.spare : lane)
    const { hold } = this.#holding
    this.#holds = new Group((wishes, is) => asking.together(hold, wishes, on(holding, is), NOTHING), {
      ...shared,
      leadsOn: true,
      answer: (wish, told, deadline) => this.#answer(wish, told, deadline)
    })
    this.#charges = new Group((all, is) => asking.together(chargeSeveral, all, on(charging, is), undefined), {
      ...shared,
      answer: ({ userId, committed, endpoint }, isCharged, deadline) =>
        isCharged ? NO_BALANCES : this.#commitAlone(userId, committed, endpoint, deadline)
    })
    const settling = new SettlingMany(heldSince)
    this.#settlements = new Group((all, is) => asking.together(settling.several, all, on(charging, is), NOTHING), {
      ...shared,
      answer: (_, moved) => moved
    })
  }

  reserve(userId: string, charges: readonly WantedCharge[], leaseMs: number): Promise<Admission> {
    const { asking, openings } = this.#context
    const deadline = asking.deadline()
    const wish = new ReservingSeveral(userId, charges, leaseMs)
    return openings.behind(wish, deadline, isOpened => this.#hold(wish, deadline, isOpened))
  }

  async commit(
    userId: string,
    charges: readonly CommittedCharge[],
    endpoint: string | null,
    isTold: boolean
  ): Promise<Balances> {
    const deadline = this.#context.asking.deadline()
    if (!isTold && this.#charges !== undefined && charges.every(({ amount, heldAmount }) => amount === heldAmount))
      return await this.#charges.join(new CommittingSeveral(userId, charges, endpoint), deadline)
    const settlements = charges.map(({ id, typeId, amount, metadata }): Settlement => {
      return { do: 'commit', userId, id, typeId, amount, metadata, endpoint }
    })
    const balances = await this.#settle(userId, charges, settlements, deadline)
    return balances ?? (await this.#commitAlone(userId, charges, endpoint, deadline))
  }

  async release(userId: string, charges: readonly HeldCharge[]): Promise<Balances> {
    const { asking, heldSince } = this.#context
    const deadline = asking.deadline()
    const settlements = charges.map(({ id, typeId }): Settlement => ({ do: 'release', userId, id, typeId }))
    const balances = await this.#settle(userId, charges, settlements, deadline)
    if (balances !== undefined) return balances
    return await this.#alone(this.#settling, userId, deadline, db =>
      release(db, userId, charges, heldSince.ofAll(userId, charges))
    )
  }

  #answer(wish: ReservingSeveral, told: readonly Told[], deadline: number): Admission | Promise<Admission> {
    if (areHeld(told)) return admittedBy(wish.charges, told)
    // Nothing was held for this user, and those before it can only leave it less room.
    if (isFull(wish, told)) return refusalOfSeveral(wish.charges, told as Held[])
    if (!told.includes(OUTDATED)) return this.#hold(wish, deadline, false)
    return this.#context.openings.before(wish, deadline, isOpened => this.#hold(wish, deadline, isOpened))
  }

  /** Behind those of its user that were not held together with others. */
  #hold(wish: ReservingSeveral, deadline: number, mayShare: boolean): Promise<Admission> {
    const { userId } = wish
    if (this.#holds === undefined) return this.#alone(this.#reserving, userId, deadline, db => this.#reserve(db, wish))
    const apart = this.#apart.get(userId)
    if (apart === undefined && mayShare) return this.#holds.join(wish, deadline)
    return (apart ?? this.#setApart(userId)).join(wish, deadline)
  }

  /**
   * First one by itself: while somebody has the counters locked, the others are not asked for. Then all that there are, in one statement that waits for
   * the counters: otherwise a user with many would be served ever later. Where not all of them fit, those of it that do not follow each by itself.
   */
  #setApart(userId: string): Group<ReservingSeveral, Admission, Admission> {
    let byThemselves = 1
    const hold = async (wishes: readonly ReservingSeveral[]) => {
      const { asking } = this.#context
      const [first] = wishes as [ReservingSeveral]
      if (byThemselves > 0) {
        const admission = await this.#reserve(asking.until(asking.deadline()), first)
        byThemselves -= 1
        return [admission]
      }
      // Unless it is answered.
      byThemselves = 1
      const told = await this.#insist(wishes)
      byThemselves = told.filter(one => one === AGAIN).length
      return told
    }
    const apart = new Group<ReservingSeveral, Admission, Admission>(hold, {
      size: () => (byThemselves > 0 ? 1 : GROUP_SIZE),
      answer: (_, admission) => admission,
      onIdle: () => this.#apart.delete(userId)
    })
    this.#apart.set(userId, apart)
    return apart
  }

  /** What a user's requests ask for: all of it, or else what has no room, before the first one that has some. */
  async #insist(wishes: readonly ReservingSeveral[]): Promise<(Admission | typeof AGAIN)[]> {
    const { asking } = this.#context
    const told = await asking.together(this.#holding.insist, wishes, asking.db.metering, NOTHING)
    if (told.every(areHeld)) return wishes.map(({ charges }, i) => admittedBy(charges, told[i] as Held[]))
    const left = wishes.findIndex((wish, i) => !isFull(wish, told[i] as Told[]))
    const full = left === -1 ? wishes.length : left
    return wishes.map(({ charges }, i) => (i < full ? refusalOfSeveral(charges, told[i] as Held[]) : AGAIN))
  }

  #reserve(db: Database, { userId, charges, leaseMs }: ReservingSeveral): Promise<Admission> {
    return reserve(db, { userId, charges, leaseMs, heldSince: this.#context.heldSince })
  }

  /** The balances afterwards; undefined where not all of it could be done with others, and nothing was. */
  async #settle(
    userId: string,
    charges: readonly HeldCharge[],
    settlements: readonly Settlement[],
    deadline: number
  ): Promise<Balances | undefined> {
    const moved = (await this.#settlements?.join({ userId, settlements }, deadline)) ?? NOTHING
    const balances: Balances = new Map()
    for (const [i, { type }] of charges.entries()) {
      const one = moved[i]
      if (!one?.done) return undefined
      balances.set(type, balanceOf(type, one))
    }
    return balances
  }

  #commitAlone(
    userId: string,
    charges: readonly CommittedCharge[],
    endpoint: string | null,
    deadline: number
  ): Promise<Balances> {
    const { heldSince } = this.#context
    return this.#alone(this.#settling, userId, deadline, db =>
      commit(db, userId, charges, endpoint, heldSince.ofAll(userId, charges))
    )
  }

  /** The embedded engine takes everything in turn by itself. */
  #alone<T>(turns: UserTurns, userId: string, deadline: number, work: (db: Database) => Promise<T>): Promise<T> {
    const { asking } = this.#context
    if (asking.db.kind === 'embedded') return work(asking.until(deadline))
    return turns.run(userId, deadline, () => work(asking.until(deadline)))
  }
}

const areHeld = (told: readonly Told[]): told is Held[] =>
  told.length > 0 && told.every(one => typeof one === 'object' && one.held)

/** Whether it does not fit, though its counters are up to date. */
const isFull = ({ charges }: ReservingSeveral, told: readonly Told[]): boolean =>
  told.length > 0 &&
  told.every(one => typeof one === 'object') &&
  charges.some(({ amount }, i) => !fits(amount, told[i] as Held))
