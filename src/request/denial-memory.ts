// What was refused a moment ago and would be refused again: answered without asking the database.
import type { QuotaEvent } from '../quota/events.ts'
import type { Admission, ChargeCost } from '../store/charge/admit.ts'
import type { Tariff } from './match.ts'
import type { DeniedAnswer } from './refuse.ts'

type Denial = Admission & { admitted: false }

/** A denial as it stands at this moment, with the answers of the routes that have given it. */
export interface Recalled {
  denial: Denial
  answers: Map<Tariff, { answer: DeniedAnswer; event: QuotaEvent }>
}

interface Remembered {
  costs: readonly ChargeCost[]
  denial: Denial
  since: number
  until: number
  recalled: Recalled
  /** Until then its answer stays the same: it counts whole seconds. */
  recalledUntil: number
}

/** How long after a user was reset, or given more, another process may still not know it. */
const REMEMBERED_FOR_MS = 1_000
/** Users; the one that was refused longest ago is forgotten for the next. */
const MAX_USERS = 10_000
/** For each user: as many routes that differ in cost. */
const MAX_DENIALS = 20

export class DenialMemory {
  readonly #users = new Map<string, Remembered[]>()
  #changes = 0

  /** To be handed to `remember`: where something was forgotten meanwhile, nothing is remembered. */
  get changes(): number {
    return this.#changes
  }

  recall(userId: string, costs: readonly ChargeCost[]): Recalled | undefined {
    const denials = this.#users.get(userId)
    if (denials === undefined) return undefined
    const known = denials.find(denial => isSame(denial.costs, costs))
    if (known === undefined) return undefined
    const now = performance.now()
    if (now >= known.until) return undefined
    if (now >= known.recalledUntil) {
      known.recalled = recalledOf(later(known.denial, now - known.since))
      known.recalledUntil = now + untilNextSecond(known.recalled.denial)
    }
    return known.recalled
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
    const ends = violations.map(({ resetsAt }) =>
      resetsAt === null ? REMEMBERED_FOR_MS : resetsAt.getTime() - denial.at.getTime()
    )
    const until = since + Math.min(REMEMBERED_FOR_MS, ...ends)
    const others = this.#users.get(userId)?.filter(remembered => !isSame(remembered.costs, costs)) ?? []
    if (others.length >= MAX_DENIALS) others.length = 0
    others.push({ costs, denial, since, until, recalled, recalledUntil: since + untilNextSecond(denial) })
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
