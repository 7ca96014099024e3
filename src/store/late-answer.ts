// A statement whose answer nobody waits for any more may still be carried out. Code that must know asks here, with the error that was given
// instead of the answer.

/** The answer, once it comes; NOT_SENT where there will be none. */
const answers = new WeakMap<Error, Promise<unknown> | typeof NOT_SENT>()

export const NOT_SENT = Symbol('not sent')

/** Notes what will become of the statement; returns the error. */
export function answeredLate<E extends Error>(error: E, answer: Promise<unknown> | typeof NOT_SENT): E {
  answers.set(error, answer)
  return error
}

export const lateAnswerTo = (error: unknown): Promise<unknown> | typeof NOT_SENT | undefined =>
  answers.get(error as Error)
