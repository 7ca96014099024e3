// Group commit: what arrives while a statement is under way shares the next one.
import { FST_QUOTA_STORE } from '../../quota/errors.ts'
import { answeredLate, NOT_SENT } from '../late-answer.ts'

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

/** Item by item. The spare goes beside one that is slow, on another connection. */
type Send<Item, Given> = (items: readonly Item[], isSpare: boolean) => Promise<readonly Given[]>

interface GroupOptions<Item, Given, Answer> {
  /** What is answered where the database gave this: a promise for what must be asked for by itself. */
  answer: (item: Item, given: Given, deadline: number) => Answer | Promise<Answer>
  /** How many go into one statement. */
  size: number
  /** Allows a second statement: behind the first once as many wait as it has, or beside it after `spareAfterMs`, since its connection may be dead. */
  more?: { spareAfterMs: number }
  /** Nothing waits, and nothing is under way. */
  onIdle?: () => void
}

/** Nobody waits for it any more. */
const GIVEN_UP = Number.POSITIVE_INFINITY

/** Fewer do not follow a statement that is under way: the price of one more would eat what is won by having it begin at once. */
const FOLLOW_FROM = 10

/**
 * Where nothing is under way an item leaves at once. A second statement follows when it is no smaller than the first: 1.06 to 1.09 times as many
 * requests, whatever the number of connections. With any that wait each was of fewer, and the price of a statement ate it.
 */
export class Group<Item extends { userId: string }, Given, Answer> {
  readonly #send: Send<Item, Given>
  readonly #options: GroupOptions<Item, Given, Answer>
  #waiting: Waiting<Item, Answer>[] = []
  /** Those that were sent first come first. */
  #underWay: Batch<Item, Answer>[] = []
  #timer: NodeJS.Timeout | undefined
  /** By `performance.now()`; GIVEN_UP where no timer runs. */
  #timerAt = GIVEN_UP
  #spareTimer: NodeJS.Timeout | undefined
  #isScheduled = false

  constructor(send: Send<Item, Given>, options: GroupOptions<Item, Given, Answer>) {
    this.#send = send
    this.#options = options
  }

  /** Rejects with FST_QUOTA_STORE where there is no answer by then; what was not sent yet is not sent any more. */
  join(item: Item, deadline: number): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push(new Waiting(item, deadline, resolve, reject))
      this.#watch(deadline)
      this.#schedule()
    })
  }

  /** One timer for all. It is not stopped where all was answered: the next item would start it anew. Who was elsewhere before has less time left. */
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

  /** After this turn of the event loop: what it brings besides comes along. */
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
    })
  }

  #maySend(): boolean {
    const first = this.#first()
    if (first === undefined) return true
    if (this.#options.more === undefined) return false
    if (this.#isSlow(first)) return this.#underWay.every(({ isSpare }) => !isSpare)
    return this.#underWay.length === 1 && this.#waiting.length >= Math.max(first.items.length, FOLLOW_FROM)
  }

  /** Of those on the usual connection. */
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
    answers.then(
      given => this.#end(batch, (waiting, i) => this.#answer(waiting, given[i] as Given)),
      error => this.#end(batch, ({ reject }) => reject(error))
    )
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
   * Those who have come meanwhile leave before the others are told: 1.05 times as many requests, and 1.2 with 200 connections. The list is emptied:
   * where V8 has it among the old objects, it would keep alive all those requests until these are looked through.
   */
  #end(batch: Batch<Item, Answer>, tell: (waiting: Waiting<Item, Answer>, i: number) => void): void {
    this.#underWay = this.#underWay.filter(other => other !== batch)
    if (this.#maySend()) this.#run()
    batch.items.splice(0).forEach(tell)
  }

  /** In order of arrival; where more wait than fit, users take turns, so that one with many holds up nobody. */
  #take(): Waiting<Item, Answer>[] {
    const waiting = this.#waiting
    const { size } = this.#options
    const taken = waiting.length <= size ? waiting : size === 1 ? waiting.slice(0, 1) : inTurn(waiting, size)
    const chosen = taken === waiting ? undefined : new Set(taken)
    this.#waiting = chosen === undefined ? [] : waiting.filter(item => !chosen.has(item))
    return taken
  }
}

/** So many of them, in the order they came: of each user the first, then of each the second, and so on. */
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
