// How long the records of charges and denials are kept.
import { setTimeout as sleep } from 'node:timers/promises'
import { FST_QUOTA_INVALID_OPTION } from '../quota/errors.ts'
import { refuseUnknown, requireObject } from '../quota/option.ts'
import { clockOf } from '../store/clock.ts'
import type { Database } from '../store/database.ts'
import type { LogPosition } from '../store/operator/list-usage.ts'
import { pruneDenials, pruneUsage } from '../store/upkeep/prune-usage.ts'

export interface RetentionOptions {
  /**
   * For how many days, 1 to 36 500, rows of `usage_logs` are kept. Default: for ever. Rows that a counter is the sum of, those of a period that
   * still runs and of a level, are kept longer. Statistics, and the charges that a report counts, see no further back than this.
   */
  usageLogs?: number
  /** For how many days, 1 to 36 500, the counts of denials are kept. Default: for ever. */
  denials?: number
}

/** Throws FST_QUOTA_INVALID_OPTION. */
export function readRetention(retention: RetentionOptions): RetentionOptions {
  requireObject('retention', retention, '{ usageLogs: 400 }')
  refuseUnknown('retention', retention, ['usageLogs', 'denials'])
  for (const [field, days] of Object.entries(retention))
    if (days !== undefined && !(Number.isInteger(days) && days >= 1 && days <= 36_500))
      throw new FST_QUOTA_INVALID_OPTION(
        `retention.${field}`,
        `must be a whole number of days from 1 to 36500, but is ${String(days)}`
      )
  return retention
}

const DAY_MS = 86_400_000
/** Between two batches, so that the database has time for others. */
const PAUSE_MS = 50

/** One pass over what is too old. */
export async function retain(db: Database, { usageLogs, denials }: RetentionOptions, stopping: AbortSignal) {
  if (usageLogs === undefined && denials === undefined) return
  const now = (await clockOf(db)).getTime()
  const before = (days: number) => new Date(now - days * DAY_MS)
  const pause = () => sleep(PAUSE_MS, undefined, { signal: stopping, ref: false }).catch(() => {})
  if (denials !== undefined) while (!stopping.aborted && (await pruneDenials(db, before(denials))) > 0) await pause()
  if (usageLogs === undefined) return
  let after: LogPosition | undefined
  const failed: unknown[] = []
  do {
    const { next, errors } = await pruneUsage(db, before(usageLogs), after)
    failed.push(...errors)
    after = next
    await pause()
  } while (after !== undefined && !stopping.aborted)
  // Thrown when all the rest is done: one user must not keep everybody's log from being pruned.
  if (failed.length > 0) throw failed[0]
}
