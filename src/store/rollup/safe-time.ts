// Until when the log is complete: anything older can only be changed by those who leave a mark.
import { type Database, ms } from '../database.ts'
import { UNMARKED_MINUTES } from './mark-usage.ts'

/** More than the time that goes unmarked, in case a server's clock is set back. */
const BEHIND_MS = (UNMARKED_MINUTES + 2) * 60_000

/** A moment, and which transactions there were. A snapshot's xmax will not do: transactions beyond it may have begun already. */
interface Moment {
  at: number
  /** The oldest transaction that still ran. */
  oldest: bigint
  /** Our own, and so newer than all that had begun to write. */
  newest: bigint
}

const MOMENT = `
SELECT ${ms('now()')} AS at, pg_snapshot_xmin(pg_current_snapshot())::text AS oldest, pg_current_xact_id()::text AS newest,
       EXISTS (SELECT 1 FROM quota_usage_marks) AS marked`

/**
 * A row without a mark was written by a transaction that began to write less than UNMARKED_MINUTES after its `created_at`. Once all transactions of a
 * moment have ended, later ones mark whatever is that much older than the moment: up to there, what is visible is complete.
 */
export class SafeTime {
  #noted: Moment | undefined
  #until = Number.NEGATIVE_INFINITY

  /** In milliseconds: nothing older can still appear without a mark. */
  get until(): number {
    return this.#until
  }

  see(moment: Moment): void {
    if (this.#noted !== undefined && this.#noted.newest < moment.oldest) {
      this.#until = this.#noted.at - BEHIND_MS
      this.#noted = undefined
    }
    this.#noted ??= moment
  }
}

/** Lets `safe` see the present; returns whether there are marks. */
export async function lookAround(db: Database, safe: SafeTime): Promise<boolean> {
  const [row] = await db.query<{ at: number; oldest: string; newest: string; marked: boolean }>(MOMENT)
  const { at, oldest, newest, marked } = row!
  safe.see({ at: Number(at), oldest: BigInt(oldest), newest: BigInt(newest) })
  return marked
}
