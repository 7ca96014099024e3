// Group commit: what arrives while a statement is under way shares the next one.
import { FST_QUOTA_STORE } from '../quota/errors.ts'
import { answeredLate, NOT_SENT } from './late-answer.ts'

interface Waiting<Item, Answer> {
  item: Item
  /** By `performance.now()`. */
  deadline: number
  resolve: (answer: Answer | undefined) => void
  reject: (error: unknown) => void
  /** Of the statement that it went with. */
  answers?: Promise<unknown>
}

/** Item by item; undefined is for what must be asked for by itself. */
type Send<Item, Answer> = (items: readonly Item[]) => Promise<readonly (Answer | undefined)[]>

interface GroupOptions {
  /** How many go into one statement. */
  size: number
  /** How many statements are under way at once. */
  width: number
  /** Nothing waits, and nothing is under way. */
  onIdle?: () => void
}

/**
 * Where nothing is under way an item leaves at once. With two statements under way the database works on one while this process reads the
 * answers of the other. A user's items are in one of them at a time: the second would wait for the rows of the first.
 */
export class Group<Item extends { userId: string }, Answer> {
  readonly #send: Send<Item, Answer>
  readonly #options: GroupOptions
  #waiting: Waiting<Item, Answer>[] = []
  /** Those who wait, and those who are under way. */
  readonly #unanswered = new Set<Waiting<Item, Answer>>()
  #timer: NodeJS.Timeout | undefined
  /** Users of the statements under way. */
  readonly #busy = new Set<string>()
  #underWay = 0
  #isScheduled = false

  constructor(send: Send<Item, Answer>, options: GroupOptions) {
    this.#send = send
    this.#options = options
  }

  /** Rejects with FST_QUOTA_STORE where there is no answer by then; what was not sent yet is not sent any more. */
  join(item: Item, deadline: number): Promise<Answer | undefined> {
    return new Promise((resolve, reject) => {
      const waiting = { item, deadline, resolve, reject }
      this.#waiting.push(waiting)
      this.#unanswered.add(waiting)
      this.#watch(deadline)
      this.#schedule()
    })
  }

  /** One timer for all. It is not stopped where all was answered: the next item would start it anew. */
  #watch(deadline: number): void {
    this.#timer ??= setTimeout(() => this.#giveUp(), Math.max(deadline - performance.now(), 1)).unref()
  }

  #giveUp(): void {
    this.#timer = undefined
    const now = performance.now()
    let next = Number.POSITIVE_INFINITY
    for (const waiting of this.#unanswered) {
      if (waiting.deadline > now) next = Math.min(next, waiting.deadline)
      else {
        this.#unanswered.delete(waiting)
        this.#waiting = this.#waiting.filter(other => other !== waiting)
        waiting.reject(answeredLate(new FST_QUOTA_STORE('no answer in time'), waiting.answers ?? NOT_SENT))
      }
    }
    if (next < Number.POSITIVE_INFINITY) this.#watch(next)
  }

  /** After this turn of the event loop: what it brings besides comes along. */
  #schedule(): void {
    if (this.#isScheduled || this.#underWay >= this.#options.width) return
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      void this.#run()
    })
  }

  async #run(): Promise<void> {
    const batch = this.#take()
    if (batch.length > 0) {
      this.#underWay += 1
      for (const { item } of batch) this.#busy.add(item.userId)
      await this.#ask(batch)
      for (const { item } of batch) this.#busy.delete(item.userId)
      this.#underWay -= 1
      if (this.#waiting.length > 0) this.#schedule()
    }
    if (this.#underWay === 0 && this.#waiting.length === 0) this.#options.onIdle?.()
  }

  async #ask(batch: readonly Waiting<Item, Answer>[]): Promise<void> {
    try {
      const sent = this.#send(batch.map(({ item }) => item))
      for (const waiting of batch) waiting.answers = sent
      const answers = await sent
      for (let i = 0; i < batch.length; i++) {
        const waiting = batch[i] as Waiting<Item, Answer>
        this.#unanswered.delete(waiting)
        waiting.resolve(answers[i])
      }
    } catch (error) {
      for (const waiting of batch) {
        this.#unanswered.delete(waiting)
        waiting.reject(error)
      }
    }
  }

  /** The first come first; where more wait than one statement takes, a user at a time in turn, so that one with many holds up nobody. */
  #take(): Waiting<Item, Answer>[] {
    const free =
      this.#busy.size === 0 ? this.#waiting : this.#waiting.filter(({ item }) => !this.#busy.has(item.userId))
    const taken = free.length <= this.#options.size ? free : inTurn(free, this.#options.size)
    if (taken.length === this.#waiting.length) {
      this.#waiting = []
    } else {
      const chosen = new Set(taken)
      this.#waiting = this.#waiting.filter(waiting => !chosen.has(waiting))
    }
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
