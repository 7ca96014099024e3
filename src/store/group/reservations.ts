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
import { Presence } from '../connection/presence.ts'
import { isRefused } from '../connection/refused.ts'
import { SLOW_MS } from '../connection/shared-lanes.ts'
import { type Database, type Shared, within } from '../database.ts'
import { chargeMany } from './charge-many.ts'
import { Group } from './group.ts'
import { Holding } from './hold-alike.ts'
import { moveInTurn } from './move-in-turn.ts'
import { type Move, type Moved, moveManyUsers } from './move-many.ts'
import { openMany } from './open-many.ts'
import type { Settling } from './settling.ts'
import { UserTurns } from './user-turns.ts'
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
  readonly #db: Database
  readonly #timeoutMs: number
  readonly #holds: Group<Reserving, Told, Admission> | undefined
  readonly #charges: Group<Committing, true | undefined, Map<string, Balance>> | undefined
  readonly #moves: Moves | undefined
  readonly #openings: Group<Reserving, boolean, boolean> | undefined
  readonly #users = new Map<string, Moves>()
  /** For requests with several charges. */
  readonly #reserving = new UserTurns()
  readonly #settling = new UserTurns()
  readonly #presence: Presence
  readonly #heldSince: HeldSince
  /** Users whose counters are being opened. */
  readonly #opening = new Map<string, Promise<boolean>>()
  /** How many of a user's requests `#holds` left to the others: later ones go behind them. */
  readonly #left = new Map<string, number>()

  /** `timeoutMs` is how long a request waits for each of these; `distributed`: no statement touches more than one user. */
  constructor(db: Database, timeoutMs: number, { distributed }: { distributed?: boolean } = {}) {
    this.#db = db
    this.#timeoutMs = timeoutMs
    this.#presence = new Presence(timeoutMs)
    this.#heldSince = new HeldSince(timeoutMs)
    const isAlone = distributed || db.kind !== 'postgres'
    this.sharing = isAlone ? 1 : GROUP_SIZE
    if (isAlone) return
    const { holding, charging, metering } = db
    const shared = { size: GROUP_SIZE, more: { spareAfterMs: SLOW_MS, part: () => this.#part() } }
    const on = (lane: Shared, isSpare: boolean) => (isSpare ? lane.spare : lane)
    const { hold } = new Holding(this.#heldSince)
    this.#holds = new Group((wishes, is) => this.#ask(hold, wishes, on(holding, is), undefined), {
      ...shared,
      answer: (wish, held, deadline) =>
        held === OUTDATED
          ? this.#opened(wish, deadline)
          : held && isFinal(wish, held.held)
            ? outcomeOf(wish, held)
            : this.#reserveLeft(wish, deadline)
    })
    this.#charges = new Group((charges, is) => this.#ask(chargeMany, charges, on(charging, is), undefined), {
      ...shared,
      answer: (charge, isCharged, deadline) => (isCharged ? NO_BALANCES : this.#commitLeft(charge, deadline))
    })
    this.#moves = new Group(
      moves => this.#ask((on, moves) => moveManyUsers(on, moves, this.#heldSince), moves, metering, NOT_MOVED),
      {
        size: GROUP_SIZE,
        answer: asGiven
      }
    )
    this.#openings = new Group(wishes => this.#ask(openMany, wishes, metering, false), {
      size: GROUP_SIZE,
      answer: (_, isOpened) => isOpened
    })
  }

  /** Holds all charges, or none. */
  reserve(userId: string, charges: readonly WantedCharge[], leaseMs: number): Promise<Admission> {
    const deadline = this.#deadline()
    if (this.#plain(charges) === undefined)
      return this.#alone(this.#reserving, userId, deadline, db =>
        reserve(db, { userId, charges, leaseMs, heldSince: this.#heldSince })
      )
    const wish = new Reserving(userId, charges, leaseMs)
    return this.#opening.has(userId) ? this.#opened(wish, deadline) : this.#holdOrLeave(wish, deadline)
  }

  commit(userId: string, charges: readonly CommittedCharge[], endpoint: string | null): Promise<Map<string, Balance>> {
    const deadline = this.#deadline()
    const charge = this.#plain(charges)
    if (charge === undefined)
      return this.#alone(this.#settling, userId, deadline, db =>
        commit(db, userId, charges, endpoint, this.#heldSince.ofAll(userId, charges))
      )
    const committing = new Committing(userId, charge, endpoint)
    if (this.#charges === undefined || charge.amount !== charge.heldAmount)
      return this.#commitLeft(committing, deadline)
    return this.#charges.join(committing, deadline)
  }

  async release(userId: string, charges: readonly HeldCharge[]): Promise<Map<string, Balance>> {
    const deadline = this.#deadline()
    const charge = this.#plain(charges)
    if (charge === undefined)
      return await this.#alone(this.#settling, userId, deadline, db =>
        release(db, userId, charges, this.#heldSince.ofAll(userId, charges))
      )
    const { id, typeId, type } = charge
    const moved = await this.#move({ do: 'release', userId, id, typeId }, deadline)
    if (!moved?.done) return await release(this.#until(deadline), userId, charges)
    return new Map([[type, balanceOf(type, moved)]])
  }

  voidCharges(userId: string, charges: readonly HeldCharge[]): Promise<void> {
    return voidCharges(this.#until(this.#deadline()), userId, charges)
  }

  amend(userId: string, charges: readonly CommittedCharge[]): Promise<Map<string, Balance>> {
    return amend(this.#until(this.#deadline()), userId, charges)
  }

  /** The end of a request's wait, by `performance.now()`: what is not done with others has the time that is left of it. */
  #deadline = (): number => performance.now() + this.#timeoutMs

  /**
   * Where the database is quick, all that there is comes to share one statement, for which this process and the server wait in turn. In three
   * parts, one is with each and one on its way: 1.01 to 1.09 times as many requests with 50 connections.
   */
  #part(): number {
    const part = Math.ceil(((this.#holds?.load ?? 0) + (this.#charges?.load ?? 0)) / 3)
    return part < PARTS.least || part > PARTS.most ? GROUP_SIZE : part
  }

  #until = (deadline: number): Database => within(this.#db, Math.max(deadline - performance.now(), 1), this.#hearing)

  readonly #hearing: Pick<Database, 'query'> = {
    query: (...given) => this.#presence.hear(this.#db.metering.query(...given))
  }

  /** Whether a request that failed with this error only waited behind others, for a database that is there. */
  isCrowded(error: unknown): boolean {
    return this.#presence.isCrowded(error)
  }

  /** The embedded engine takes everything in turn by itself. */
  #alone<T>(turns: UserTurns, userId: string, deadline: number, work: (db: Database) => Promise<T>): Promise<T> {
    if (this.#db.kind === 'embedded') return work(this.#until(deadline))
    return turns.run(userId, deadline, () => work(this.#until(deadline)))
  }

  /**
   * Several charges of one request are all or none, which the statements for many requests do not provide. The embedded engine plans a
   * statement anew each time, and gains nothing.
   */
  #plain<One>(charges: readonly One[]): One | undefined {
    return charges.length === 1 && this.#db.kind === 'postgres' ? charges[0] : undefined
  }

  #holdOrLeave(wish: Reserving, deadline: number): Promise<Admission> {
    const isLeft = this.#holds === undefined || this.#left.has(wish.userId)
    return isLeft ? this.#reserveLeft(wish, deadline) : this.#holds.join(wish, deadline)
  }

  /**
   * Once its counter is there, and in the period that runs, it is held together with others after all. Later requests of its user go behind it,
   * and need not ask for the same.
   */
  async #opened(wish: Reserving, deadline: number): Promise<Admission> {
    const { userId } = wish
    const before = this.#opening.get(userId)
    if (before !== undefined) {
      try {
        await before
      } catch {
        // The one before is told; this one may still ask by itself.
      }
      return await this.#holdOrLeave(wish, deadline)
    }
    if (wish.wasOpened) return await this.#reserveLeft(wish, deadline)
    wish.wasOpened = true
    const opening = this.#openings?.join(wish, deadline)
    if (opening !== undefined) this.#opening.set(userId, opening)
    let isOpened: boolean | undefined
    try {
      isOpened = await opening
    } finally {
      // At once with what follows, so that nobody comes between.
      this.#opening.delete(userId)
    }
    return await (isOpened ? this.#holdOrLeave(wish, deadline) : this.#reserveLeft(wish, deadline))
  }

  #reserveLeft(wish: Reserving, deadline: number): Promise<Admission> {
    const { wasOpened: _, charges, ...order } = wish
    return this.#afterOthers(wish.userId, async () => {
      const moved = await this.#moveAlone({ do: 'reserve', ...order }, deadline)
      if (moved?.done || (moved?.full && isFinal(wish, false))) return outcomeOf(wish, { ...moved, held: moved.done })
      return await reserve(this.#until(deadline), { ...order, charges })
    })
  }

  async #commitLeft({ userId, charge, endpoint }: Committing, deadline: number): Promise<Map<string, Balance>> {
    const { id, typeId, type, amount, metadata } = charge
    const moved = await this.#move({ do: 'commit', userId, id, typeId, amount, metadata, endpoint }, deadline)
    if (!moved?.done) return await commit(this.#until(deadline), userId, [charge], endpoint)
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

  /** For a user whose counters somebody else is moving: many processes serving one user wait for the row once per group, not once per request. */
  #moveAlone(move: Move, deadline: number): Promise<Answer> {
    const { userId } = move
    const group =
      this.#users.get(userId) ??
      new Group<Move, Answer, Answer>(
        moves => this.#ask((on, moves) => moveInTurn(on, moves, this.#heldSince), moves, this.#db.metering, NOT_MOVED),
        {
          size: GROUP_SIZE,
          answer: asGiven,
          onIdle: () => this.#users.delete(userId)
        }
      )
    this.#users.set(userId, group)
    return group.join(move, deadline)
  }

  async #ask<Item, Given, Refused>(
    statement: (db: Database, items: readonly Item[]) => Promise<Given[]>,
    items: readonly Item[],
    on: Pick<Database, 'query'>,
    refused: Refused
  ): Promise<(Given | Refused)[]> {
    try {
      return await this.#presence.hear(statement(within(this.#db, this.#timeoutMs, on), items))
    } catch (error) {
      if (!isRefused(error)) throw error
      return items.map(() => refused)
    }
  }
}

const asGiven = (_: Move, given: Answer): Answer => given
