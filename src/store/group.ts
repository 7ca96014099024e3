// Group commit: what arrives while a statement is under way shares the next one.
import { FST_QUOTA_STORE } from '../quota/errors.ts'
import { answeredLate, NOT_SENT } from './late-answer.ts'

interface Waiting<Item, Answer> {
  item: Item
  /** By `performance.now()`. */
  deadline: number
  resolve: (answer: Answer | undefined) => void
  reject: (error: unknown) => void
}

/** What shares a statement. */
interface Batch<Item, Answer> {
  items: readonly Waiting<Item, Answer>[]
  /** Undefined where nobody asks. */
  users: ReadonlySet<string> | undefined
  answers: Promise<readonly (Answer | undefined)[]>
}

/** Item by item; undefined is for what must be asked for by itself. */
type Send<Item, Answer> = (items: readonly Item[]) => Promise<readonly (Answer | undefined)[]>

interface GroupOptions {
  /** How many go into one statement. */
  size: number
  /** How many statements are under way at once. */
  width: number
  /** A user's items are in one of them at a time: the second would wait for the rows of the first. */
  oneOfUser?: boolean
  /** Nothing waits, and nothing is under way. */
  onIdle?: () => void
}

/** Nobody waits for it any more. */
const GIVEN_UP = Number.POSITIVE_INFINITY

/**
 * Where nothing is under way an item leaves at once. With two statements under way the database works on one while this process reads the
 * answers of the other.
 */
export class Group<Item extends { userId: string }, Answer> {
  readonly #send: Send<Item, Answer>
  readonly #options: GroupOptions
  #waiting: Waiting<Item, Answer>[] = []
  /**
   * As a few arrays, and not as a set of all that is unanswered: a set that changes with every request grows new tables, and V8 links each to the
   * one before, so that what was ever in one outlives the young collections: a fifth of all that was allocated did.
   */
  #underWay: Batch<Item, Answer>[] = []
  #timer: NodeJS.Timeout | undefined
  #isScheduled = false

  constructor(send: Send<Item, Answer>, options: GroupOptions) {
    this.#send = send
    this.#options = options
  }

  /** Rejects with FST_QUOTA_STORE where there is no answer by then; what was not sent yet is not sent any more. */
  join(item: Item, deadline: number): Promise<Answer | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, deadline, resolve, reject })
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
    const late = (answers: Promise<unknown> | typeof NOT_SENT) => (waiting: Waiting<Item, Answer>) => {
      if (waiting.deadline > now) return
      waiting.deadline = GIVEN_UP
      waiting.reject(answeredLate(new FST_QUOTA_STORE('no answer in time'), answers))
    }
    this.#waiting.forEach(late(NOT_SENT))
    this.#waiting = this.#waiting.filter(({ deadline }) => deadline < GIVEN_UP)
    for (const { items, answers } of this.#underWay) items.forEach(late(answers))
    const unanswered = [this.#waiting, ...this.#underWay.map(({ items }) => items)].flat()
    const next = unanswered.reduce((least, { deadline }) => Math.min(least, deadline), GIVEN_UP)
    if (next < GIVEN_UP) this.#watch(next)
  }

  /** After this turn of the event loop: what it brings besides comes along. */
  #schedule(): void {
    if (this.#isScheduled || this.#underWay.length >= this.#options.width) return
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      void this.#run()
    })
  }

  async #run(): Promise<void> {
    const items = this.#take()
    if (items.length > 0) {
      const batch = this.#begin(items)
      this.#underWay.push(batch)
      await answer(batch)
      this.#underWay = this.#underWay.filter(other => other !== batch)
      if (this.#waiting.length > 0) this.#schedule()
    }
    if (this.#underWay.length === 0 && this.#waiting.length === 0) this.#options.onIdle?.()
  }

  #begin(items: readonly Waiting<Item, Answer>[]): Batch<Item, Answer> {
    const { width, oneOfUser } = this.#options
    const users = oneOfUser && width > 1 ? new Set(items.map(({ item }) => item.userId)) : undefined
    return { items, users, answers: this.#send(items.map(({ item }) => item)) }
  }

  /** The first come first; where more wait than one statement takes, a user at a time in turn, so that one with many holds up nobody. */
  #take(): Waiting<Item, Answer>[] {
    const isFree = ({ item }: Waiting<Item, Answer>) => !this.#underWay.some(({ users }) => users?.has(item.userId))
    const isAnyFree = this.#underWay.length === 0 || !this.#options.oneOfUser
    const free = isAnyFree ? this.#waiting : this.#waiting.filter(isFree)
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

async function answer<Item, Answer>({ items, answers }: Batch<Item, Answer>): Promise<void> {
  try {
    const given = await answers
    for (let i = 0; i < items.length; i++) (items[i] as Waiting<Item, Answer>).resolve(given[i])
  } catch (error) {
    for (const { reject } of items) reject(error)
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
