// What was refused a moment ago and would be refused again: answered without asking the database. Of those who ask again and again, it is asked
// for all together whether anything has changed.
import type { QuotaEvent } from '../quota/events.ts'
import type { Admission, ChargeCost } from '../store/charge/admit.ts'
import type { FullCounter, StillFull } from '../store/group/still-full.ts'
import type { Tariff } from './match.ts'
import type { DeniedAnswer } from './refuse.ts'

type Denial = Admission & { admitted: false }

/** A denial as it stands at this moment, with the answers of the routes that have given it. */
export interface Recalled {
  denial: Denial
  answers: Map<Tariff, { answer: DeniedAnswer; event: QuotaEvent }>
}

/** How long after a user was reset, or given more, another process may still not know it. */
const REMEMBERED_FOR_MS = 1_000
/** How often the database is asked about what was recalled; its answer has as long again to come in time. */
const CONFIRM_EVERY_MS = 500
/** Counters in one statement. */
const CONFIRM_AT_ONCE = 1_000
/** Users; the one that the database refused longest ago is forgotten for the next. */
const MAX_USERS = 10_000
/** For each user: as many routes that differ in cost. */
const MAX_DENIALS = 20

class Remembered {
  readonly userId: string
  readonly costs: readonly ChargeCost[]
  /** Recalled, and among those of whom the database is asked next. */
  isWanted = false
  #denial: Denial
  /** When the database was asked, and how long its answer is good for, by `performance.now()`. */
  #since: number
  #until: number
  #recalled: Recalled
  /** Until then its answer stays the same: it counts whole seconds. */
  #recalledUntil: number

  constructor(userId: string, costs: readonly ChargeCost[], recalled: Recalled, since: number) {
    this.userId = userId
    this.costs = costs
    this.#denial = recalled.denial
    this.#since = since
    this.#until = untilOf(recalled.denial, since)
    this.#recalled = recalled
    this.#recalledUntil = since + untilNextSecond(recalled.denial)
  }

  recalledAt(now: number): Recalled | undefined {
    if (now >= this.#until) return undefined
    if (now >= this.#recalledUntil) {
      this.#recalled = recalledOf(later(this.#denial, now - this.#since))
      this.#recalledUntil = now + untilNextSecond(this.#recalled.denial)
    }
    return this.#recalled
  }

  get counters(): FullCounter[] {
    return this.costs.map(({ typeId }, i) => ({
      userId: this.userId,
      typeId,
      balance: this.#denial.violations[i] as Denial['violations'][number]
    }))
  }

  /**
   * Nothing had changed at `at`, by the database's clock; it was asked at `since`. What has ended before the answer came stays ended: since then a
   * request may have been admitted.
   */
  confirm(at: Date, since: number): void {
    if (performance.now() >= this.#until) return
    this.#denial = later(this.#denial, at.getTime() - this.#denial.at.getTime())
    this.#since = since
    this.#until = untilOf(this.#denial, since)
  }
}

export class DenialMemory {
  readonly #users = new Map<string, Remembered[]>()
  readonly #stillFull: ((counters: readonly FullCounter[]) => Promise<StillFull>) | undefined
  #changes = 0
  #wanted: Remembered[] = []
  /** A turn of asking is to come, or under way. */
  #isDue = false
  #timer: NodeJS.Timeout | undefined
  #confirming: Promise<void> = Promise.resolve()
  #isClosed = false

  /** Without `stillFull`, each user's requests ask again once a second. */
  constructor(stillFull?: (counters: readonly FullCounter[]) => Promise<StillFull>) {
    this.#stillFull = stillFull
  }

  /** To be handed to `remember`: where something was forgotten meanwhile, nothing is remembered. */
  get changes(): number {
    return this.#changes
  }

  recall(userId: string, costs: readonly ChargeCost[]): Recalled | undefined {
    const denials = this.#users.get(userId)
    if (denials === undefined) return undefined
    const known = denials.find(denial => isSame(denial.costs, costs))
    const recalled = known?.recalledAt(performance.now())
    if (known !== undefined && recalled !== undefined && !known.isWanted) this.#want(known)
    return recalled
  }

  /**
   * Remembers only a denial that no running work can make untrue by giving back what it holds: then nothing but a change by hand or the end of
   * the period makes room. And only where nothing that was asked for fits: what does fit may be taken by another request, and the answer shows its
   * figures. Returns the denial with room for its answers, remembered or not. `since` is when the database was asked, by `performance.now()`: an
   * answer that came late must not outlive the period.
   */
  remember(userId: string, costs: readonly ChargeCost[], denial: Denial, changes: number, since: number): Recalled {
    const recalled = recalledOf(denial)
    const { violations } = denial
    const isLasting = violations.length === costs.length && violations.every(violation => violation.reserved === 0)
    if (changes !== this.#changes || !isLasting) return recalled
    const others = this.#users.get(userId)?.filter(remembered => !isSame(remembered.costs, costs)) ?? []
    if (others.length >= MAX_DENIALS) others.length = 0
    others.push(new Remembered(userId, costs, recalled, since))
    // So that this user is the last one in the order of the map.
    this.#users.delete(userId)
    this.#users.set(userId, others)
    if (this.#users.size > MAX_USERS) this.#users.delete(this.#users.keys().next().value as string)
    return recalled
  }

  /** There may be room again: for this user, or for all. */
  forget(userId?: string): void {
    this.#changes += 1
    if (userId === undefined) this.#users.clear()
    else this.#users.delete(userId)
  }

  /** From now on the database is asked nothing more. Resolves when what it was asked is answered. */
  close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    return this.#confirming
  }

  #want(known: Remembered): void {
    if (this.#stillFull === undefined || this.#isClosed) return
    known.isWanted = true
    this.#wanted.push(known)
    if (!this.#isDue) this.#confirmSoon()
  }

  #confirmSoon(): void {
    this.#isDue = true
    this.#timer = setTimeout(() => {
      this.#confirming = this.#confirmWanted()
    }, CONFIRM_EVERY_MS).unref()
  }

  async #confirmWanted(): Promise<void> {
    const wanted = this.#wanted
    this.#wanted = []
    for (const known of wanted) known.isWanted = false
    // What is not confirmed ends in time; its user's next request asks the database, and answers its error.
    for (let i = 0; i < wanted.length && !this.#isClosed; i += CONFIRM_AT_ONCE)
      await this.#confirm(wanted.slice(i, i + CONFIRM_AT_ONCE)).catch(() => {})
    this.#isDue = false
    if (this.#wanted.length > 0 && !this.#isClosed) this.#confirmSoon()
  }

  async #confirm(wanted: readonly Remembered[]): Promise<void> {
    const since = performance.now()
    const { places, at } = await this.#stillFull!(wanted.flatMap(({ counters }) => counters))
    let place = 0
    for (const known of wanted) {
      const isFull = known.costs.every((_, i) => places.has(place + i))
      // Who was forgotten meanwhile is not among `#users` any more.
      if (isFull) known.confirm(at, since)
      place += known.costs.length
    }
  }
}

/** Compared one by one: a text to look them up by would be made anew for each request. */
function isSame(some: readonly ChargeCost[], others: readonly ChargeCost[]): boolean {
  if (some === others) return true
  if (some.length !== others.length) return false
  for (let i = 0; i < some.length; i++)
    if (some[i]?.typeId !== others[i]?.typeId || some[i]?.amount !== others[i]?.amount) return false
  return true
}

const recalledOf = (denial: Denial): Recalled => ({ denial, answers: new Map() })

/** Milliseconds. */
const untilNextSecond = ({ at }: Denial): number => 1_000 - (at.getTime() % 1_000)

function untilOf({ violations, at }: Denial, since: number): number {
  const ends = violations.map(({ resetsAt }) =>
    resetsAt === null ? REMEMBERED_FOR_MS : resetsAt.getTime() - at.getTime()
  )
  return since + Math.min(REMEMBERED_FOR_MS, ...ends)
}

/** The same refusal, with the clock moved on. */
function later(denial: Denial, elapsedMs: number): Denial {
  const at = new Date(denial.at.getTime() + elapsedMs)
  const violations = denial.violations.map(violation => ({
    ...violation,
    retryAfter:
      violation.resetsAt === null ? null : Math.max(Math.ceil((violation.resetsAt.getTime() - at.getTime()) / 1000), 1)
  }))
  return { ...denial, at, violations }
}
