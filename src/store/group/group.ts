// Group commit: what arrives while a statement is under way shares the next one.
import { FST_QUOTA_STORE } from '../../quota/errors.ts'
import { answeredLate, NOT_SENT } from '../late-answer.ts'
import type { Turns } from './turns.ts'

class Waiting<Item, Answer> {
  readonly item: Item
  /** By `performance.now()`. */
  deadline: number
  readonly resolve: (answer: Answer | Promise<Answer>) => void
  readonly reject: (error: unknown) => void

  constructor(
    item: Item,
    deadline: number,
    resolve: (answer: Answer | Promise<Answer>) => void,
    reject: (error: unknown) => void
  ) {
    this.item = item
    this.deadline = deadline
    this.resolve = resolve
    this.reject = reject
  }
}

/** What shares a statement. */
interface Batch<Item, Answer> {
  items: Waiting<Item, Answer>[]
  answers: Promise<unknown>
  /** By `performance.now()`. */
  sentAt: number
  isSpare: boolean
}

/** Gives an answer per item. The spare statement goes beside a slow one, on another connection. */
type Send<Item, Given> = (items: readonly Item[], isSpare: boolean) => Promise<readonly (Given | typeof AGAIN)[]>

interface GroupOptions<Item, Given, Answer> {
  /** What is answered where the database gave this; a promise for an item that must be asked for by itself. */
  answer: (item: Item, given: Given, deadline: number) => Answer | Promise<Answer>
  /** How many items go into one statement, at the moment. */
  size: () => number
  /** Allows a second statement: behind the first once as many wait as it has, or beside it after `spareAfterMs`, since its connection may be dead. */
  more?: { spareAfterMs: number }
  /** Others whose statements go the same way. */
  turns?: Turns
  /** What is answered may lead to an item of another of these at once. */
  leadsOn?: true
  /** Called when nothing waits and nothing is under way. */
  onIdle?: () => void
}

/** Given for an item that was not asked for after all, and waits again, before those that came later. */
export const AGAIN = Symbol('again')

/** The deadline of what nobody waits for any more. */
const GIVEN_UP = Number.POSITIVE_INFINITY

/** Fewer do not follow a statement under way: the cost of one more would eat up what starting at once gains. */
const FOLLOW_FROM = 10

/**
 * When nothing is under way, an item leaves at once. A second statement follows if it is no smaller than the first: 1.06 to 1.09 times as many
 * requests, whatever the number of connections. When any number could follow, each statement carried fewer, and its cost ate up the gain.
 */
export class Group<Item extends { userId: string }, Given, Answer> {
  readonly #send: Send<Item, Given>
  readonly #options: GroupOptions<Item, Given, Answer>
  #waiting: Waiting<Item, Answer>[] = []
  /** In the order they were sent. */
  #underWay: Batch<Item, Answer>[] = []
  #timer: NodeJS.Timeout | undefined
  /** By `performance.now()`; GIVEN_UP where no timer runs. */
  #timerAt = GIVEN_UP
  #spareTimer: NodeJS.Timeout | undefined
  #isScheduled = false
  #joined = 0

  constructor(send: Send<Item, Given>, options: GroupOptions<Item, Given, Answer>) {
    this.#send = send
    this.#options = options
    options.turns?.join(this)
  }

  /** Rejects with FST_QUOTA_STORE if there is no answer by `deadline`; what has not been sent by then is not sent any more. */
  join(item: Item, deadline: number): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#joined += 1
      this.#waiting.push(new Waiting(item, deadline, resolve, reject))
      this.#watch(deadline)
      this.#schedule()
    })
  }

  /** How many have no answer yet. */
  get load(): number {
    return this.#underWay.reduce((sum, { items }) => sum + items.length, this.#waiting.length)
  }

  /** How many have ever joined. */
  get joined(): number {
    return this.#joined
  }

  /** How many were not sent yet. */
  get waits(): number {
    return this.#waiting.length
  }

  /** Sends what waits, if it may. */
  go(): void {
    if (this.waits > 0 && this.#maySend()) this.#run()
  }

  /**
   * One timer for all. It is not stopped once all are answered: the next item would only start it again. An item that waited elsewhere
   * before has less time left.
   */
  #watch(deadline: number): void {
    if (deadline >= this.#timerAt) return
    clearTimeout(this.#timer)
    this.#timerAt = deadline
    this.#timer = setTimeout(() => this.#giveUp(), Math.max(deadline - performance.now(), 1)).unref()
  }

  #giveUp(): void {
    this.#timerAt = GIVEN_UP
    const now = performance.now()
    const late = (answers: Promise<unknown> | typeof NOT_SENT) => (waiting: Waiting<Item, Answer>) => {
      if (waiting.deadline > now) return
      waiting.deadline = GIVEN_UP
      waiting.reject(answeredLate(new FST_QUOTA_STORE('no answer in time'), answers))
    }
    this.#waiting.forEach(late(NOT_SENT))
    this.#waiting = this.#waiting.filter(({ deadline }) => deadline < GIVEN_UP)
    for (const { items, answers } of this.#underWay) items.forEach(late(answers))
    const unanswered = [...this.#waiting, ...this.#underWay.flatMap(({ items }) => items)]
    const next = unanswered.reduce((least, { deadline }) => Math.min(least, deadline), GIVEN_UP)
    if (next < GIVEN_UP) this.#watch(next)
  }

  /** Sends after this turn of the event loop, so that whatever else the turn brings comes along. */
  #schedule(): void {
    if (this.#isScheduled) return
    if (!this.#maySend()) {
      this.#waitForSpare()
      return
    }
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      if (this.#maySend()) this.#run()
      else this.#waitForSpare()
    })
  }

  #maySend(): boolean {
    if (this.#options.turns?.mayGo(this) === false) return false
    const first = this.#first()
    if (first === undefined) return true
    if (this.#options.more === undefined) return false
    if (this.#isSlow(first)) return this.#underWay.every(({ isSpare }) => !isSpare)
    return this.#underWay.length === 1 && this.#waiting.length >= Math.max(first.items.length, FOLLOW_FROM)
  }

  /** The first of those on the usual connection. */
  #first(): Batch<Item, Answer> | undefined {
    return this.#underWay.find(({ isSpare }) => !isSpare)
  }

  #isSlow({ sentAt }: Batch<Item, Answer>): boolean {
    return performance.now() - sentAt >= (this.#options.more?.spareAfterMs ?? Number.POSITIVE_INFINITY)
  }

  /** One timer for all, as above. */
  #waitForSpare(): void {
    const { more } = this.#options
    if (more === undefined || this.#spareTimer !== undefined) return
    this.#spareTimer = setTimeout(() => {
      this.#spareTimer = undefined
      if (this.#waiting.length > 0) this.#schedule()
    }, more.spareAfterMs).unref()
  }

  #run(): void {
    if (this.#waiting.length === 0) {
      if (this.#underWay.length === 0) this.#options.onIdle?.()
      return
    }
    const items = this.#take()
    const first = this.#first()
    const isSpare = first !== undefined && this.#isSlow(first)
    const answers = this.#send(
      items.map(({ item }) => item),
      isSpare
    )
    const batch = { items, answers, sentAt: performance.now(), isSpare }
    this.#underWay.push(batch)
    this.#options.turns?.begin(batch, this)
    answers.then(
      given => {
        const told = given.includes(AGAIN) ? this.#takeBack(batch, given) : given
        this.#end(batch, (waiting, i) => this.#answer(waiting, told[i] as Given))
      },
      error => this.#end(batch, ({ reject }) => reject(error))
    )
    if (this.#waiting.length > 0 && this.#maySend()) this.#run()
  }

  /** Returns what was given for the others. */
  #takeBack(batch: Batch<Item, Answer>, given: readonly (Given | typeof AGAIN)[]): readonly unknown[] {
    const again = batch.items.filter(({ deadline }, i) => given[i] === AGAIN && deadline < GIVEN_UP)
    batch.items = batch.items.filter((_, i) => given[i] !== AGAIN)
    this.#waiting = [...again, ...this.#waiting]
    return given.filter(one => one !== AGAIN)
  }

  #answer({ item, deadline, resolve, reject }: Waiting<Item, Answer>, given: Given): void {
    if (deadline === GIVEN_UP) return
    try {
      resolve(this.#options.answer(item, given, deadline))
    } catch (error) {
      reject(error)
    }
  }

  /**
   * Items that arrived meanwhile are sent before the others are answered: 1.05 times as many requests, and 1.2 with 200 connections. The
   * list is emptied: where V8 has moved it to the old objects, it would keep all those requests alive until these are collected.
   */
  #end(batch: Batch<Item, Answer>, tell: (waiting: Waiting<Item, Answer>, i: number) => void): void {
    const { turns, leadsOn } = this.#options
    this.#underWay = this.#underWay.filter(other => other !== batch)
    turns?.end(batch, this, leadsOn === true ? batch.items.length : 0)
    if (!turns?.areTaken() && this.#maySend()) this.#run()
    batch.items.splice(0).forEach(tell)
  }

  /** In order of arrival; where more wait than fit, users take turns, so that one with many requests holds up nobody. */
  #take(): Waiting<Item, Answer>[] {
    const waiting = this.#waiting
    const size = this.#options.size()
    const taken = waiting.length <= size ? waiting : size === 1 ? waiting.slice(0, 1) : inTurn(waiting, size)
    const chosen = taken === waiting ? undefined : new Set(taken)
    this.#waiting = chosen === undefined ? [] : waiting.filter(item => !chosen.has(item))
    return taken
  }
}

/** `size` of them, in order of arrival: each user's first, then each user's second, and so on. */
function inTurn<Waits extends { item: { userId: string } }>(all: readonly Waits[], size: number): Waits[] {
  const turns = new Map<string, number>()
  const ranked = all.map((waiting, place) => {
    const turn = turns.get(waiting.item.userId) ?? 0
    turns.set(waiting.item.userId, turn + 1)
    return { waiting, turn, place }
  })
  ranked.sort((a, b) => a.turn - b.turn || a.place - b.place)
  return ranked
    .slice(0, size)
    .sort((a, b) => a.place - b.place)
    .map(({ waiting }) => waiting)
}
