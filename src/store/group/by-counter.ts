// What is asked of one counter each, sharing statements: with all users', or with that of one user whose counters somebody else is moving.
import { SLOW_MS } from '../connection/shared-lanes.ts'
import type { Database, Shared } from '../database.ts'
import type { Asking } from './asking.ts'
import { Group } from './group.ts'
import { type Asked, inTurn, type Told } from './in-turn.ts'
import type { Turns } from './turns.ts'

/** More would keep the first ones waiting for longer than it saves. */
const GROUP_SIZE = 80
/** The database refused a shared statement because of one item: each asks by itself. */
const REFUSED = { done: false, known: false, full: false, ended: false } as const

/** Undefined: there is no such counter, or, in a statement for many users, somebody else has locked it. */
type Answer<Answered> = Answered | typeof REFUSED | undefined

/** Answers each, in the order given. */
type Statement<One, Answered> = (db: Pick<Database, 'query'>, all: readonly One[]) => Promise<(Answered | undefined)[]>

export interface Statements<One, Answered, Joint extends One = One> {
  ofMany: Statement<Joint, Answered>
  /** Waits for this user's rows only. */
  ofOne: Statement<One, Answered>
  /** Something may be done about it, and it is to be asked again before those that came later. */
  isOpen: (one: One, answered: Answered | undefined) => boolean
}

/** Where statements for many follow each other, and how many items go into one. */
export interface SharedLane {
  on: Shared
  size: () => number
  turns: Turns
}

/** `Joint`: what may be asked together with others. */
export class ByCounter<One extends Asked, Answered extends Told, Joint extends One = One> {
  readonly #asking: Asking
  readonly #statements: Statements<One, Answered, Joint>
  readonly #many: Group<Joint, Answer<Answered>, Answer<Answered>> | undefined
  readonly #users = new Map<string, Group<One, Answer<Answered>, Answer<Answered>>>()

  /** `lane`: where statements may touch many users, how they are sent. */
  constructor(asking: Asking, statements: Statements<One, Answered, Joint>, lane: SharedLane | undefined) {
    this.#asking = asking
    this.#statements = statements
    if (lane === undefined) return
    this.#many = new Group(
      (all, is) => asking.together(statements.ofMany, all, is ? lane.on.spare : lane.on, REFUSED),
      {
        size: lane.size,
        more: { spareAfterMs: SLOW_MS },
        turns: lane.turns,
        answer: (_, given) => given
      }
    )
  }

  /** How many that are asked for together have no answer yet. */
  get load(): number {
    return this.#many?.load ?? 0
  }

  /** With those of other users, where that does it. */
  async move(one: Joint, deadline: number): Promise<Answer<Answered>> {
    return (await this.together(one, deadline)) ?? (await this.alone(one, deadline))
  }

  /** Not where others of this user wait for its rows: it waits behind them. */
  mayShare(userId: string): boolean {
    return this.#many !== undefined && !this.#users.has(userId)
  }

  async together(one: Joint, deadline: number): Promise<Answer<Answered>> {
    return this.mayShare(one.userId) ? await this.#many?.join(one, deadline) : undefined
  }

  /**
   * For a user whose counters somebody else is moving: many processes serving one user wait for the row once per group, not once per request. First one
   * is asked for by itself, as in `Several`: while somebody has the counters locked, the others are not. Not so where all come here.
   */
  alone(one: One, deadline: number): Promise<Answer<Answered>> {
    const { userId } = one
    const group = this.#users.get(userId) ?? this.#setApart(userId)
    return group.join(one, deadline)
  }

  #setApart(userId: string): Group<One, Answer<Answered>, Answer<Answered>> {
    const isUsual = this.#many === undefined
    let isAnswered = false
    const asking = this.#asking
    const ask = async (all: readonly One[]) => {
      isAnswered = false
      const answers = await asking.together(
        (on, all) => inTurn(on, all, this.#statements),
        all,
        asking.db.metering,
        REFUSED
      )
      isAnswered = true
      return answers
    }
    const group = new Group<One, Answer<Answered>, Answer<Answered>>(ask, {
      size: () => (isAnswered || isUsual ? GROUP_SIZE : 1),
      answer: (_, given) => given,
      onIdle: () => this.#users.delete(userId)
    })
    this.#users.set(userId, group)
    return group
  }
}
