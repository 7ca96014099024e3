// How requests reserve, settle and charge at once: grouped where it is simple, one by one where it is not, and each within its deadline.
import type { Balance } from '../../quota/balance.ts'
import type { Admission, WantedCharge } from '../charge/admit.ts'
import { amend } from '../charge/amend.ts'
import type { ChargeOrder } from '../charge/charge.ts'
import { type CommittedCharge, commit, type HeldCharge } from '../charge/commit.ts'
import { balanceOf } from '../charge/counter-balance.ts'
import { HeldSince } from '../charge/held-since.ts'
import { release } from '../charge/release.ts'
import { reserve } from '../charge/reserve.ts'
import type { LevelMove } from '../charge/set-level.ts'
import { voidCharges } from '../charge/void.ts'
import { SLOW_MS } from '../connection/shared-lanes.ts'
import type { Database, Shared } from '../database.ts'
import { Asking } from './asking.ts'
import { ByCounter, type Statements } from './by-counter.ts'
import { chargeMany } from './charge-many.ts'
import { Group } from './group.ts'
import { Holding } from './hold-alike.ts'
import { Levels } from './levels.ts'
import { type Move, type Moved, moveOneUser, type Settlement } from './move-one-user.ts'
import { openMany } from './open-many.ts'
import { Openings } from './openings.ts'
import { Outlays } from './outlays.ts'
import { SettlingMany } from './settle-many.ts'
import type { Settling } from './settling.ts'
import { Several } from './several.ts'
import { Turns } from './turns.ts'
import { Committing, isFinal, outcomeOf, Reserving } from './waiting.ts'
import { OUTDATED, type Told } from './wishes.ts'

/**
 * With more, this process and the server wait for each other: with 200 connections, up to 200 in a statement gave 0.88 to 0.96 times as
 * many requests; 50 and 100 gave as many.
 */
const GROUP_SIZE = 80
/**
 * Smaller parts are not made: the cost of one more statement would eat up what is gained (with 25 connections, 17 and 8 gave 0.93 times as many
 * requests). Nor larger ones: with 200 connections, three parts gave 0.9 times as many.
 */
const PARTS = { least: 15, most: 32 }
const NO_BALANCES: Map<string, Balance> = new Map()

/**
 * Four ways, each for what the one before left: `#holds` and `#charges` for the usual case, after `#openings` for those that are new or whose
 * period has ended; `#moves` for those that release, or charge another amount than was held, and, one user at a time, for those that wait for somebody
 * else, or need something else done first; and one by one. For a distributed database there are only the last two.
 */
export class Reservations implements Settling {
  /** How many charges may share a statement. */
  readonly sharing: number
  readonly #asking: Asking
  readonly #holds: Group<Reserving, Told, Admission> | undefined
  readonly #charges: Group<Committing, true | undefined, Map<string, Balance>> | undefined
  readonly #moves: ByCounter<Move, Moved, Settlement>
  readonly #openings: Openings
  readonly #several: Several
  readonly #outlays: Outlays
  readonly #levels: Levels
  readonly #heldSince: HeldSince
  /** How many of a user's requests `#holds` left to the others: later ones go behind them. */
  readonly #left = new Map<string, number>()

  /** `timeoutMs` is how long a request waits for each of these; `distributed`: no statement touches more than one user. */
  constructor(db: Database, timeoutMs: number, { distributed }: { distributed?: boolean } = {}) {
    this.#asking = new Asking(db, timeoutMs)
    this.#heldSince = new HeldSince(timeoutMs)
    const asking = this.#asking
    this.#openings = new Openings(wanted => asking.together(openMany, wanted, db.metering, false))
    const turns = new Turns()
    const isAlone = distributed || db.kind !== 'postgres'
    const lane = isAlone ? undefined : { on: db.charging, size: () => this.#part(), turns }
    this.#moves = new ByCounter(asking, movingSince(this.#heldSince), lane)
    const context = { asking, openings: this.#openings, heldSince: this.#heldSince }
    this.#several = new Several(context, isAlone ? undefined : turns)
    this.#outlays = new Outlays(context, lane)
    this.#levels = new Levels(context, lane)
    this.sharing = isAlone ? 1 : GROUP_SIZE
    if (isAlone) return
    const { holding, charging } = db
    const shared = { size: () => this.#part(), more: { spareAfterMs: SLOW_MS }, turns }
    const on = (lane: Shared, isSpare: boolean) => (isSpare ? lane.spare : lane)
    const { hold } = new Holding(this.#heldSince)
    this.#holds = new Group((wishes, is) => asking.together(hold, wishes, on(holding, is), undefined), {
      ...shared,
      leadsOn: true,
      answer: (wish, held, deadline) =>
        held === OUTDATED
          ? this.#openings.before(wish, deadline, isOpened => this.#hold(wish, deadline, isOpened))
          : held && isFinal(wish, held.held)
            ? outcomeOf(wish, held)
            : this.#reserveLeft(wish, deadline)
    })
    this.#charges = new Group((charges, is) => asking.together(chargeMany, charges, on(charging, is), undefined), {
      ...shared,
      answer: (charge, isCharged, deadline) => (isCharged ? NO_BALANCES : this.#commitLeft(charge, deadline))
    })
  }

  /** Holds all charges, or none. */
  reserve(userId: string, charges: readonly WantedCharge[], leaseMs: number): Promise<Admission> {
    const deadline = this.#asking.deadline()
    if (this.#plain(charges) === undefined) return this.#several.reserve(userId, charges, leaseMs)
    const wish = new Reserving(userId, charges, leaseMs)
    return this.#openings.behind(wish, deadline, isOpened => this.#hold(wish, deadline, isOpened))
  }

  /** `isTold`: the balances afterwards are wanted also where the amounts are as they were held, which makes it slower. */
  commit(
    userId: string,
    charges: readonly CommittedCharge[],
    endpoint: string | null,
    isTold = false
  ): Promise<Map<string, Balance>> {
    const deadline = this.#asking.deadline()
    const charge = this.#plain(charges)
    if (charge === undefined) return this.#several.commit(userId, charges, endpoint, isTold)
    const committing = new Committing(userId, charge, endpoint)
    if (this.#charges === undefined || charge.amount !== charge.heldAmount || isTold)
      return this.#commitLeft(committing, deadline)
    return this.#charges.join(committing, deadline)
  }

  async release(userId: string, charges: readonly HeldCharge[]): Promise<Map<string, Balance>> {
    const deadline = this.#asking.deadline()
    const charge = this.#plain(charges)
    if (charge === undefined) return await this.#several.release(userId, charges)
    const { id, typeId, type } = charge
    const moved = await this.#moves.move({ do: 'release', userId, id, typeId }, deadline)
    if (!moved?.done) return await release(this.#asking.until(deadline), userId, charges)
    return new Map([[type, balanceOf(type, moved)]])
  }

  voidCharges(userId: string, charges: readonly HeldCharge[]): Promise<void> {
    return voidCharges(this.#asking.until(this.#asking.deadline()), userId, charges)
  }

  amend(userId: string, charges: readonly CommittedCharge[]): Promise<Map<string, Balance>> {
    return amend(this.#asking.until(this.#asking.deadline()), userId, charges)
  }

  /** Charges at once, and holds nothing. Undefined: its idempotency key is known. */
  charge(order: ChargeOrder): Promise<Admission | undefined> {
    return this.#outlays.charge(order)
  }

  /** Credits or sets a level. Undefined: its idempotency key is known. */
  moveLevel(move: LevelMove): Promise<Balance | undefined> {
    return this.#levels.move(move)
  }

  /**
   * Where the database is quick, all that there is comes to share one statement, for which this process and the server wait in turn. In three
   * parts, one is with each and one on its way: 1.01 to 1.09 times as many requests with 50 connections.
   */
  #part(): number {
    const load =
      (this.#holds?.load ?? 0) + (this.#charges?.load ?? 0) + this.#moves.load + this.#outlays.load + this.#levels.load
    const part = Math.ceil(load / 3)
    return part < PARTS.least || part > PARTS.most ? GROUP_SIZE : part
  }

  /** Whether a request that failed with this error only waited behind others, for a database that is there. */
  isCrowded(error: unknown): boolean {
    return this.#asking.isCrowded(error)
  }

  /** Several charges of one request have their own ways. The embedded engine plans a statement anew each time, and gains nothing by sharing. */
  #plain<One>(charges: readonly One[]): One | undefined {
    return charges.length === 1 && this.#asking.db.kind === 'postgres' ? charges[0] : undefined
  }

  #hold(wish: Reserving, deadline: number, isOpened: boolean): Promise<Admission> {
    const isLeft = !isOpened || this.#holds === undefined || this.#left.has(wish.userId)
    return isLeft ? this.#reserveLeft(wish, deadline) : this.#holds.join(wish, deadline)
  }

  #reserveLeft(wish: Reserving, deadline: number): Promise<Admission> {
    const { userId, id, typeId, amount, leaseMs, charges } = wish
    return this.#afterOthers(userId, async () => {
      const moved = await this.#moves.alone({ do: 'reserve', userId, id, typeId, amount, leaseMs }, deadline)
      if (moved?.done || (moved?.full && isFinal(wish, false))) return outcomeOf(wish, { ...moved, held: moved.done })
      return await reserve(this.#asking.until(deadline), { userId, charges, leaseMs })
    })
  }

  async #commitLeft({ userId, charge, endpoint }: Committing, deadline: number): Promise<Map<string, Balance>> {
    const { id, typeId, type, amount, metadata } = charge
    const moved = await this.#moves.move({ do: 'commit', userId, id, typeId, amount, metadata, endpoint }, deadline)
    if (!moved?.done) return await commit(this.#asking.until(deadline), userId, [charge], endpoint)
    return new Map([[type, balanceOf(type, moved)]])
  }

  /** First come, first served. */
  async #afterOthers<T>(userId: string, work: () => Promise<T>): Promise<T> {
    this.#left.set(userId, (this.#left.get(userId) ?? 0) + 1)
    try {
      return await work()
    } finally {
      const others = (this.#left.get(userId) as number) - 1
      if (others === 0) this.#left.delete(userId)
      else this.#left.set(userId, others)
    }
  }
}

const movingSince = (heldSince: HeldSince): Statements<Move, Moved, Settlement> => ({
  ofMany: new SettlingMany(heldSince).one,
  ofOne: (on, moves) => moveOneUser(on, moves, heldSince),
  isOpen: (move, moved) => move.do === 'reserve' && !moved?.done && !moved?.full
})
