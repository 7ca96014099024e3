// Waiting for a connection, first come, first served, in a line that can be left again.
import { FST_QUOTA_STORE } from '../../quota/errors.ts'
import { withDeadline } from '../database.ts'
import { answeredLate, NOT_SENT } from '../late-answer.ts'

/** Called by whoever hands on a connection, after taking the turn out of the line. */
export type Turn<T> = (connection: T) => void

/** Rejects with FST_QUOTA_STORE, marked as not sent, if the turn has not come within `deadlineMs`. */
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
