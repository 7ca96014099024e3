// Requests that wait until their user's counters are there, and in the period that runs: together with those of others.
import { Group } from './group.ts'
import type { Wanted } from './open-many.ts'

/** More would keep the first ones waiting for longer than it saves. */
const GROUP_SIZE = 80

/** A request that found that its counters are outdated. */
export interface Outdated extends Wanted {
  /** It has waited for them already. */
  wasOpened: boolean
}

export class Openings {
  readonly #group: Group<Wanted, boolean, boolean>
  /** By user, for the first who found it so. */
  readonly #underWay = new Map<string, Promise<boolean>>()

  /** `open` says of each whether its counters are opened, as far as they can be with those of others. */
  constructor(open: (wanted: readonly Wanted[]) => Promise<boolean[]>) {
    this.#group = new Group(open, { size: () => GROUP_SIZE, answer: (_, isOpened) => isOpened })
  }

  /** What follows for a request that has found nothing yet: behind those of its user whose counters are being opened. */
  behind<T>(request: Outdated, deadline: number, next: (isOpened: boolean) => Promise<T>): Promise<T> {
    return this.#underWay.has(request.userId) ? this.before(request, deadline, next) : next(true)
  }

  /**
   * What follows once the counters are opened, or were not for this one. In order of arrival, also for those of a user who came while the first one's
   * were opened, and need not ask for the same. Rejects with FST_QUOTA_STORE if there is no answer by `deadline`.
   */
  async before<T>(outdated: Outdated, deadline: number, next: (isOpened: boolean) => Promise<T>): Promise<T> {
    const { userId } = outdated
    const first = this.#underWay.get(userId)
    if (first !== undefined) {
      try {
        await first
      } catch {
        // The first one is told; this one may still ask by itself.
      }
      return await next(true)
    }
    if (outdated.wasOpened) return await next(false)
    outdated.wasOpened = true
    const opening = this.#group.join(outdated, deadline)
    this.#underWay.set(userId, opening)
    let isOpened: boolean
    try {
      isOpened = await opening
    } finally {
      // In one turn with what follows, so that nobody comes between.
      this.#underWay.delete(userId)
    }
    return await next(isOpened)
  }
}
