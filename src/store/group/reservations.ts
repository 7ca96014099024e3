// How requests reserve and settle: grouped where it is simple, one by one where it is not, and each within its deadline.
import type { Balance } from '../../quota/balance.ts'
import type { Admission, WantedCharge } from '../charge/admit.ts'
import { amend } from '../charge/amend.ts'
import { type CommittedCharge, commit, type HeldCharge } from '../charge/commit.ts'
import { balanceOf } from '../charge/counter-balance.ts'
import { HeldSince } from '../charge/held-since.ts'
import { release } from '../charge/release.ts'
import { reserve } from '../charge/reserve.ts'
import { voidCharges } from '../charge/void.ts'
import { SLOW_MS } from '../connection/shared-lanes.ts'
import type { Database, Shared } from '../database.ts'
import { Asking } from './asking.ts'
import { chargeMany } from './charge-many.ts'
import { Group } from './group.ts'
import { Holding } from './hold-alike.ts'
import { moveInTurn } from './move-in-turn.ts'
import { type Move, type Moved, moveManyUsers } from './move-many.ts'
import { openMany } from './open-many.ts'
import { Openings } from './openings.ts'
import type { Settling } from './settling.ts'
import { Several } from './several.ts'
import { Committing, isFinal, outcomeOf, Reserving } from './waiting.ts'
import { OUTDATED, type Told } from './wishes.ts'

/** The database refused a shared statement because of one item: each asks by itself. */
const NOT_MOVED = { done: false, full: false } as const

/** Undefined: there is no such counter, or, in a statement for many users, somebody else has locked it. */
type Answer = Moved | typeof NOT_MOVED | undefined

type Moves = Group<Move, Answer, Answer>

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
 * period has ended; `#moves` for those that release, or charge another amount than was held; `#users`, one user at a time, for those that wait
 * for somebody else, or need something else done first; and one by one. For a distributed database there are only the last two.
 */
export class Reservations implements Settling {
  /** How many charges may share a statement. */
  readonly sharing: number
  readonly #asking: Asking
  readonly #holds: Group<Reserving, Told, Admission> | undefined
  readonly #charges: Group<Committing, true | undefined, Map<string, Balance>> | undefined
  readonly #moves: Moves | undefined
  readonly #openings: Openings
  readonly #several: Several
  readonly #users = new Map<string, Moves>()
  readonly #heldSince: HeldSince
  /** How many of a user's requests `#holds` left to the others: later ones go behind them. */
  readonly #left = new Map<string, number>()

  /** `timeoutMs` is how long a request waits for each of these; `distributed`: no statement touches more than one user. */
  constructor(db: Database, timeoutMs: number, { distributed }: { distributed?: boolean } = {}) {
    this.#asking = new Asking(db, timeoutMs)
    this.#heldSince = new HeldSince(timeoutMs)
    const asking = this.#asking
    this.#openings = new Openings(wanted => asking.together(openMany, wanted, db.metering, false))
    const isAlone = distributed || db.kind !== 'postgres'
    this.#several = new Several({ asking, openings: this.#openings, heldSince: this.#heldSince }, !isAlone)
    this.sharing = isAlone ? 1 : GROUP_SIZE
    if (isAlone) return
    const { holding, charging, metering } = db
    const shared = { size: () => this.#part(), more: { spareAfterMs: SLOW_MS } }
    const on = (lane: Shared, isSpare: boolean) => (isSpare ? lane.spare : lane)
    const { hold } = new Holding(this.#heldSince)
    this.#holds = new Group((wishes, is) => asking.together(hold, wishes, on(holding, is), undefined), {
      ...shared,
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
    this.#moves = new Group(
      moves => asking.together((on, moves) => moveManyUsers(on, moves, this.#heldSince), moves, metering, NOT_MOVED),
      {
        size: () => GROUP_SIZE,
        answer: asGiven
      }
    )
  }

  /** Holds all charges, or none. */
  reserve(userId: string, charges: readonly WantedCharge[], leaseMs: number): Promise<Admission> {
    const deadline = this.#asking.deadline()
    if (this.#plain(charges) === undefined) return this.#several.reserve(userId, charges, leaseMs)
    const wish = new Reserving(userId, charges, leaseMs)
    return this.#openings.behind(wish, deadline, isOpened => this.#hold(wish, deadline, isOpened))
  }

  commit(userId: string, charges: readonly CommittedCharge[], endpoint: string | null): Promise<Map<string, Balance>> {
    const deadline = this.#asking.deadline()
    const charge = this.#plain(charges)
    if (charge === undefined) return this.#several.commit(userId, charges, endpoint)
    const committing = new Committing(userId, charge, endpoint)
    if (this.#charges === undefined || charge.amount !== charge.heldAmount)
      return this.#commitLeft(committing, deadline)
    return this.#charges.join(committing, deadline)
  }

  async release(userId: string, charges: readonly HeldCharge[]): Promise<Map<string, Balance>> {
    const deadline = this.#asking.deadline()
    const charge = this.#plain(charges)
    if (charge === undefined) return await this.#several.release(userId, charges)
    const { id, typeId, type } = charge
    const moved = await this.#move({ do: 'release', userId, id, typeId }, deadline)
    if (!moved?.done) return await release(this.#asking.until(deadline), userId, charges)
    return new Map([[type, balanceOf(type, moved)]])
  }

  voidCharges(userId: string, charges: readonly HeldCharge[]): Promise<void> {
    return voidCharges(this.#asking.until(this.#asking.deadline()), userId, charges)
  }

  amend(userId: string, charges: readonly CommittedCharge[]): Promise<Map<string, Balance>> {
    return amend(this.#asking.until(this.#asking.deadline()), userId, charges)
  }

  /**
   * Where the database is quick, all that there is comes to share one statement, for which this process and the server wait in turn. In three
   * parts, one is with each and one on its way: 1.01 to 1.09 times as many requests with 50 connections.
   */
  #part(): number {
    const part = Math.ceil(((this.#holds?.load ?? 0) + (this.#charges?.load ?? 0)) / 3)
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
      const moved = await this.#moveAlone({ do: 'reserve', userId, id, typeId, amount, leaseMs }, deadline)
      if (moved?.done || (moved?.full && isFinal(wish, false))) return outcomeOf(wish, { ...moved, held: moved.done })
      return await reserve(this.#asking.until(deadline), { userId, charges, leaseMs })
    })
  }

  async #commitLeft({ userId, charge, endpoint }: Committing, deadline: number): Promise<Map<string, Balance>> {
    const { id, typeId, type, amount, metadata } = charge
    const moved = await this.#move({ do: 'commit', userId, id, typeId, amount, metadata, endpoint }, deadline)
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

  /** A move that arrives while others of this user wait for its rows waits behind them. */
  async #move(move: Move, deadline: number): Promise<Answer> {
    const moved = this.#users.has(move.userId) ? undefined : await this.#moves?.join(move, deadline)
    return moved ?? (await this.#moveAlone(move, deadline))
  }

  /**
   * For a user whose counters somebody else is moving: many processes serving one user wait for the row once per group, not once per request. First one
   * is asked for by itself, as in `Several`: while somebody has the counters locked, the others are not. Not so where all come here.
   */
  #moveAlone(move: Move, deadline: number): Promise<Answer> {
    const { userId } = move
    const group = this.#users.get(userId) ?? this.#setApart(userId)
    return group.join(move, deadline)
  }

  #setApart(userId: string): Moves {
    const isUsual = this.#holds === undefined
    let isAnswered = false
    const asking = this.#asking
    const move = async (moves: readonly Move[]) => {
      isAnswered = false
      const answers = await asking.together(
        (on, moves) => moveInTurn(on, moves, this.#heldSince),
        moves,
        asking.db.metering,
        NOT_MOVED
      )
      isAnswered = true
      return answers
    }
    const group = new Group<Move, Answer, Answer>(move, {
      size: () => (isAnswered || isUsual ? GROUP_SIZE : 1),
      answer: asGiven,
      onIdle: () => this.#users.delete(userId)
    })
    this.#users.set(userId, group)
    return group
  }
}

const asGiven = (_: Move, given: Answer): Answer => given
