// Waiting for a connection, the first come first, where one can leave again.
import { FST_QUOTA_STORE } from '../../quota/errors.ts'
import { withDeadline } from '../database.ts'
import { answeredLate, NOT_SENT } from '../late-answer.ts'

/** Called by who has a connection to hand on, after it was taken out of the line. */
export type Turn<T> = (connection: T) => void

/** Rejects with FST_QUOTA_STORE, for something that was not sent, where the turn has not come by then. */
export async function waitInLine<T>(line: Set<Turn<T>>, deadlineMs: number): Promise<T> {
  let leave = () => {}
  const turn = new Promise<T>((resolve, reject) => {
    line.add(resolve)
    leave = () => {
      line.delete(resolve)
      reject(new FST_QUOTA_STORE('no connection was free'))
    }
  })
  return await withDeadline(turn, deadlineMs, leave).catch(error => {
    throw answeredLate(error, NOT_SENT)
  })
}
