// Levels that are credited or set: for many users in one statement where it is simple, and else one by one.
import type { Balance } from '../../quota/balance.ts'
import { balanceOf } from '../charge/counter-balance.ts'
import { recallCharge } from '../charge/recall-charge.ts'
import { type LevelMove, setLevel } from '../charge/set-level.ts'
import { SLOW_MS } from '../connection/shared-lanes.ts'
import { type Database, stateOf } from '../database.ts'
import type { SharedLane } from './by-counter.ts'
import { Group } from './group.ts'
import { KeyTurns } from './key-turns.ts'
import { type MovedLevel, moveLevels } from './move-levels.ts'
import type { Outdated } from './openings.ts'
import type { Context } from './several.ts'

/** What waits for a shared statement. */
type Moving = LevelMove & Outdated

export class Levels {
  readonly #context: Context
  readonly #group: Group<Moving, MovedLevel | undefined, MovedLevel | undefined> | undefined
  #isAllowed = true
  readonly #keys = new KeyTurns<Balance>(() => true)

  /** `lane`: where statements may touch many users, how they are sent. */
  constructor(context: Context, lane: SharedLane | undefined) {
    this.#context = context
    if (lane === undefined) return
    const { asking } = context
    const { on, size, turns } = lane
    const move = (db: Pick<Database, 'query'>, moves: readonly Moving[]) => this.#moveMany(db, moves)
    this.#group = new Group((moves, is) => asking.together(move, moves, is ? on.spare : on, undefined), {
      size,
      more: { spareAfterMs: SLOW_MS },
      turns,
      answer: (_, moved) => moved
    })
  }

  /** How many that are moved together have no answer yet. */
  get load(): number {
    return this.#group?.load ?? 0
  }

  /** The balance afterwards; undefined: the idempotency key is known. */
  async move(order: LevelMove): Promise<Balance | undefined> {
    const { asking, openings } = this.#context
    const deadline = asking.deadline()
    const { userId, idempotencyKey } = order
    if (this.#group === undefined || !this.#isAllowed) {
      const db = asking.until(deadline)
      const isKnown = idempotencyKey !== null && (await recallCharge(db, userId, idempotencyKey)) !== undefined
      return isKnown ? undefined : await setLevel(db, order)
    }
    const moving = { ...order, charges: [order], wasOpened: false }
    return await this.#keys.after(userId, idempotencyKey, () =>
      openings.behind(moving, deadline, isOpened => this.#move(moving, deadline, isOpened))
    )
  }

  /** A role that may SELECT column by column cannot read `ctid`: then each goes by itself. */
  async #moveMany(db: Pick<Database, 'query'>, moves: readonly Moving[]): Promise<(MovedLevel | undefined)[]> {
    try {
      return await moveLevels(db, moves)
    } catch (error) {
      if (stateOf(error) !== '42501') throw error
      this.#isAllowed = false
      return moves.map(() => undefined)
    }
  }

  async #move(moving: Moving, deadline: number, isOpened: boolean): Promise<Balance | undefined> {
    const { asking, openings } = this.#context
    const moved = isOpened && this.#isAllowed ? await this.#group?.join(moving, deadline) : undefined
    if (moved !== undefined) return moved.known ? undefined : balanceOf(moving.type, moved)
    if (isOpened) return await openings.before(moving, deadline, isOpened => this.#move(moving, deadline, isOpened))
    return await setLevel(asking.until(deadline), moving)
  }
}
