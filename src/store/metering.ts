// What requests ask of the store: grouped where it is plain, one by one where it is not, and each within its time.
import type { Balance } from '../quota/balance.ts'
import { FST_QUOTA_STORE } from '../quota/errors.ts'
import { type Admission, type AdmissionOrder, balanceOf, refusalOf } from './admit.ts'
import { type CommittedCharge, commit, type HeldCharge } from './commit.ts'
import { GROUPED_CONNECTIONS } from './connect-server.ts'
import { type Database, dateOf, stateOf, within } from './database.ts'
import { ensureUser } from './ensure-user.ts'
import { Group } from './group.ts'
import { type Move, type Moved, moveManyUsers, moveOneUser } from './move-many.ts'
import { release } from './release.ts'
import { reserve } from './reserve.ts'
import { voidCharges } from './void.ts'

/** Writes what became of a request; each may be done twice, and is then done once. */
export interface Settling {
  commit(userId: string, charges: readonly CommittedCharge[], endpoint: string | null): Promise<Map<string, Balance>>
  release(userId: string, charges: readonly HeldCharge[]): Promise<Map<string, Balance>>
  voidCharges(userId: string, charges: readonly HeldCharge[]): Promise<void>
}

/** One request's at a time. */
export const settlingOn = (db: Database): Settling => ({
  commit: (...given) => commit(db, ...given),
  release: (...given) => release(db, ...given),
  voidCharges: (...given) => voidCharges(db, ...given)
})

/** The database refused all that shared a statement, because of one of them: each asks for itself. */
const NOT_MOVED = { done: false, full: false } as const

/** Undefined: there is no such counter, or somebody else has locked it. */
type Answer = Moved | typeof NOT_MOVED | undefined

type Moves = Group<Move, NonNullable<Answer>>

/** Larger ones gained nothing, and each waits for the whole statement. */
const GROUP_SIZE = 100

export class Metering implements Settling {
  readonly #db: Database
  readonly #timeoutMs: number
  readonly #all: Moves | undefined
  readonly #users = new Map<string, Moves>()

  /** `timeoutMs` is how long a request waits for each of these; `distributed`: no statement is of more than one user. */
  constructor(db: Database, timeoutMs: number, { distributed = false }: { distributed?: boolean } = {}) {
    this.#db = db
    this.#timeoutMs = timeoutMs
    if (distributed) return
    const options = { size: GROUP_SIZE, width: GROUPED_CONNECTIONS }
    this.#all = new Group(moves => this.#ask(moveManyUsers, moves, db.grouped), options)
  }

  /** Holds all charges, or none. */
  async reserve(order: AdmissionOrder & { leaseMs: number }): Promise<Admission> {
    const { userId, leaseMs, charges } = order
    const deadline = this.#deadline()
    const charge = this.#plain(charges)
    if (charge === undefined) return await reserve(this.#until(deadline), order)
    const { id, typeId, type, amount } = charge
    const move: Move = { do: 'reserve', userId, id, typeId, amount, leaseMs }
    const moved = (await this.#move(move, deadline)) ?? (await this.#moveOfNewUser(move, deadline))
    if (moved?.full) return refusalOf(charge, moved)
    if (!moved?.done) return await reserve(this.#until(deadline), order)
    const balance = balanceOf(type, moved)
    const admittedAt = dateOf(Math.max(moved.at, moved.period_start))
    const admitted = { id, typeId, type, amount, periodStart: balance.periodStart, admittedAt, balance }
    return { admitted: true, charges: [admitted], at: dateOf(moved.at) }
  }

  async commit(
    userId: string,
    charges: readonly CommittedCharge[],
    endpoint: string | null
  ): Promise<Map<string, Balance>> {
    const deadline = this.#deadline()
    const charge = this.#plain(charges)
    const moved = charge && (await this.#move(commitOf(userId, charge, endpoint), deadline))
    if (charge === undefined || !moved?.done) return await commit(this.#until(deadline), userId, charges, endpoint)
    return new Map([[charge.type, balanceOf(charge.type, moved)]])
  }

  async release(userId: string, charges: readonly HeldCharge[]): Promise<Map<string, Balance>> {
    const deadline = this.#deadline()
    const charge = this.#plain(charges)
    const moved =
      charge && (await this.#move({ do: 'release', userId, id: charge.id, typeId: charge.typeId }, deadline))
    if (charge === undefined || !moved?.done) return await release(this.#until(deadline), userId, charges)
    return new Map([[charge.type, balanceOf(charge.type, moved)]])
  }

  voidCharges(userId: string, charges: readonly HeldCharge[]): Promise<void> {
    return voidCharges(this.#until(this.#deadline()), userId, charges)
  }

  /** Of a request's wait, by `performance.now()`: what is not done with others has what is left of it. */
  #deadline = (): number => performance.now() + this.#timeoutMs

  #until = (deadline: number): Database => within(this.#db, Math.max(deadline - performance.now(), 1))

  /**
   * Several charges of one request are all or none, which the statement for many does not see to. The embedded engine plans a statement anew
   * each time, and gains nothing.
   */
  #plain<Charge>(charges: readonly Charge[]): Charge | undefined {
    return charges.length === 1 && this.#db.kind === 'postgres' ? charges[0] : undefined
  }

  #move(move: Move, deadline: number): Promise<Answer> {
    const alone = () => this.#ofUser(move.userId).join(move, deadline)
    return this.#all === undefined ? alone() : this.#all.join(move, deadline).then(moved => moved ?? alone())
  }

  /** Nobody's row was locked, so there is none yet: a user's first request need not ask a second time to be told so. */
  async #moveOfNewUser(move: Move, deadline: number): Promise<Answer> {
    await ensureUser(this.#until(deadline), move.userId, [move.typeId])
    return await this.#move(move, deadline)
  }

  /** For a user whose counters somebody else is moving: many processes at one user wait for the row once a group, not once a request. */
  #ofUser(userId: string): Moves {
    const group =
      this.#users.get(userId) ??
      new Group<Move, NonNullable<Answer>>(moves => this.#ask(moveOneUser, moves, this.#db.metering), {
        size: GROUP_SIZE,
        width: 1,
        onIdle: () => this.#users.delete(userId)
      })
    this.#users.set(userId, group)
    return group
  }

  async #ask(statement: typeof moveManyUsers, moves: readonly Move[], on: Pick<Database, 'query'>): Promise<Answer[]> {
    try {
      return await statement(within(this.#db, this.#timeoutMs, on), moves)
    } catch (error) {
      if (!isUndone(error)) throw error
      return moves.map(() => NOT_MOVED)
    }
  }
}

const commitOf = (
  userId: string,
  { id, typeId, amount, metadata }: CommittedCharge,
  endpoint: string | null
): Move => ({
  do: 'commit',
  userId,
  id,
  typeId,
  amount,
  metadata,
  endpoint
})

/** The database answered that it did none of it because of a value (22…), a constraint (23…) or a conflict (40…). */
const isUndone = (error: unknown): boolean =>
  error instanceof FST_QUOTA_STORE && /^(22|23|40)/.test(stateOf(error) ?? '')
