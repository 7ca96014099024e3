// Whether the database is there, judged by what became of the latest statements.
import { isWord, stateOf } from '../database.ts'
import { lateAnswerTo, NOT_SENT } from '../late-answer.ts'

export class Presence {
  /** It was not reached, or was silent for as long as a statement may take. */
  #isAway = false
  readonly #timeoutMs: number

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs
  }

  async hear<T>(answer: Promise<T>): Promise<T> {
    const sentAt = performance.now()
    try {
      const answered = await answer
      this.#isAway = false
      return answered
    } catch (error) {
      // A statement sent at the end of its request's time says nothing about the database.
      const isSilent = stateOf(error) === undefined
      if (!isSilent) this.#isAway = !isWord(error)
      else if (performance.now() - sentAt >= this.#timeoutMs / 2) this.#isAway = true
      throw error
    }
  }

  /** Whether it failed only by waiting behind others, for a database that is there. */
  isCrowded(error: unknown): boolean {
    return !this.#isAway && lateAnswerTo(error) === NOT_SENT
  }
}
