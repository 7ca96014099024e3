// Whether a statement that was given up was carried out.
import { setTimeout as sleep } from 'node:timers/promises'
import { isWord, stateOf } from '../database.ts'
import { lateAnswerTo, NOT_SENT } from '../late-answer.ts'

/**
 * Resolves once this is known: false where the database did nothing, true where it did, or may have done. Where its connection was lost,
 * only after `patienceMs`, within which a server ends what takes too long.
 */
export async function mayBeDone(error: unknown, patienceMs: number): Promise<boolean> {
  const answer = lateAnswerTo(error)
  if (answer === NOT_SENT) return false
  if (answer !== undefined)
    return await answer.then(
      () => true,
      cause => mayBeDone(cause, patienceMs)
    )
  // The server refused it, or nothing could be sent.
  if (isWord(error) || UNSENT.includes(stateOf(error) ?? '')) return false
  await sleep(patienceMs)
  return true
}

const UNSENT = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'CONNECT_TIMEOUT', 'CONNECTION_ENDED']
