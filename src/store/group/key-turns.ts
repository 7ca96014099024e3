// What is charged with the same idempotency key, one after the other: two in one statement would have the database refuse it for all.

export class KeyTurns<Answered> {
  readonly #isRemembered: (answered: Answered) => boolean
  /** By user and key, until it is known whether the key is. */
  readonly #underWay = new Map<string, Promise<Answered | undefined>>()

  /** `isRemembered`: whether the key of what was answered so is known from now on. */
  constructor(isRemembered: (answered: Answered) => boolean) {
    this.#isRemembered = isRemembered
  }

  /** `work`, which gives undefined where its key is known; it is not run where one before it has made the key known. */
  async after(
    userId: string,
    key: string | null,
    work: () => Promise<Answered | undefined>
  ): Promise<Answered | undefined> {
    if (key === null) return await work()
    const both = JSON.stringify([userId, key])
    for (let former = this.#underWay.get(both); former !== undefined; former = this.#underWay.get(both)) {
      const isKnown = await former.then(
        answered => answered === undefined || this.#isRemembered(answered),
        () => false
      )
      if (isKnown) return undefined
    }
    const working = work()
    this.#underWay.set(both, working)
    try {
      return await working
    } finally {
      this.#underWay.delete(both)
    }
  }
}
