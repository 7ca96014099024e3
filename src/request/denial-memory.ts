// What was refused a moment ago and would be refused again: answered without asking the database.
import type { Admission, ChargeCost } from '../store/admit.ts'
import type { RequestMetering } from './match.ts'
import type { DeniedAnswer } from './refuse.ts'

type Denial = Admission & { admitted: false }

/** What a denial is at this moment, with its answers for the routes that have given it. */
export interface Recalled {
  denial: Denial
  answers: Map<RequestMetering, DeniedAnswer>
}

interface Remembered {
  denial: Denial
  since: number
  until: number
  recalled: Recalled
  /** Until then it would say the same: an answer speaks of whole seconds. */
  recalledUntil: number
}

/** How much later than this process another one may learn that a user was reset, or given more. */
const REMEMBERED_FOR_MS = 1_000
/** Users; the one that was refused first is forgotten for the next. */
const MAX_USERS = 10_000
/** Of one user: as many routes of different cost. */
const MAX_DENIALS = 20

export class DenialMemory {
  readonly #users = new Map<string, Map<string, Remembered>>()
  #changes = 0

  /** What `remember` must be told: whatever was forgotten meanwhile is not remembered after all. */
  get changes(): number {
    return this.#changes
  }

  recall(userId: string, costs: readonly ChargeCost[]): Recalled | undefined {
    const denials = this.#users.get(userId)
    if (denials === undefined) return undefined
    const now = performance.now()
    const known = denials.get(signatureOf(costs))
    if (known === undefined || now >= known.until) return undefined
    if (now >= known.recalledUntil) {
      known.recalled = recalledOf(later(known.denial, now - known.since))
      known.recalledUntil = now + untilNextSecond(known.recalled.denial)
    }
    return known.recalled
  }

  /**
   * Only what no running work can make untrue by giving back what it holds: then nothing but a change by hand or the period's end
   * makes room.
   */
  remember(userId: string, costs: readonly ChargeCost[], denial: Denial, changes: number): void {
    if (changes !== this.#changes || denial.violations.some(violation => violation.reserved > 0)) return
    const since = performance.now()
    const ends = denial.violations.map(({ resetsAt }) =>
      resetsAt === null ? REMEMBERED_FOR_MS : resetsAt.getTime() - denial.at.getTime()
    )
    const denials = this.#users.get(userId) ?? new Map<string, Remembered>()
    if (denials.size >= MAX_DENIALS) denials.clear()
    denials.set(signatureOf(costs), {
      denial,
      since,
      until: since + Math.min(REMEMBERED_FOR_MS, ...ends),
      recalled: recalledOf(denial),
      recalledUntil: since + untilNextSecond(denial)
    })
    // The last one in the order of the map.
    this.#users.delete(userId)
    this.#users.set(userId, denials)
    if (this.#users.size > MAX_USERS) this.#users.delete(this.#users.keys().next().value as string)
  }

  /** There may be room again: for this user, or for all. */
  forget(userId?: string): void {
    this.#changes += 1
    if (userId === undefined) this.#users.clear()
    else this.#users.delete(userId)
  }
}

const signatureOf = (costs: readonly ChargeCost[]): string =>
  costs.map(({ typeId, amount }) => `${typeId}:${amount}`).join()

const recalledOf = (denial: Denial): Recalled => ({ denial, answers: new Map() })

/** Milliseconds. */
const untilNextSecond = ({ at }: Denial): number => 1_000 - (at.getTime() % 1_000)

/** The same refusal, by a clock that has gone on. */
function later(denial: Denial, elapsedMs: number): Denial {
  const at = new Date(denial.at.getTime() + elapsedMs)
  const violations = denial.violations.map(violation => ({
    ...violation,
    retryAfter:
      violation.resetsAt === null ? null : Math.max(Math.ceil((violation.resetsAt.getTime() - at.getTime()) / 1000), 1)
  }))
  return { ...denial, at, violations }
}
