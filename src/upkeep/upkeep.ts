// What is done without a request: renewing, expiring, counting, forgetting.
import { setTimeout as sleep } from 'node:timers/promises'
import { expireReservations, listExpired } from '../store/charge/expire-reservations.ts'
import { isRefused } from '../store/connection/refused.ts'
import { type Database, stateOf } from '../store/database.ts'
import { pruneIdempotencyKeys } from '../store/upkeep/prune-idempotency-keys.ts'
import type { DenialTally } from './denial-tally.ts'
import type { LiveReservationSet } from './live-reservations.ts'
import { type RetentionOptions, retain } from './retention.ts'
import { every, type Schedule } from './schedule.ts'
import type { UsageRollups } from './usage-rollups.ts'

/** Users that are looked up at once. */
const SWEEP_USERS = 500
/** SQLSTATE: somebody has had it locked for too long. */
const LOCKED = '55P03'
const PRUNE_EVERY_MS = 3_600_000
const ROLL_EVERY_MS = 60_000
/** Each pass looks at all rows that are too old, even those that are kept: a minute per million rows. */
const RETAIN_EVERY_MS = 6 * 3_600_000
/** By how much a denial's count may lag behind it. Where there was none, nothing is asked of the database. */
const TALLY_EVERY_MS = 1_000

/**
 * More than a statement may take. To add up a day may take minutes, and on a connection that has died the wait would be as long: what still runs
 * by then is undone when the connections are closed.
 */
const STOP_PATIENCE_MS = 6_000

/**
 * A reservation is held for two thirds of `reservationTtlMs`, and the sweep runs every third, so that it is given back within the
 * whole of it after its process died.
 */
export const leaseOf = (reservationTtlMs: number): number => Math.ceil((reservationTtlMs * 2) / 3)

/** `task` says what could not be done; its next turn comes all the same. */
export type OnUpkeepError = (error: unknown, task: string) => void

export function startUpkeep(
  db: Database,
  { live, tally, rollups }: { live: LiveReservationSet; tally: DenialTally; rollups: UsageRollups },
  { reservationTtlMs, retention }: { reservationTtlMs: number; retention: RetentionOptions },
  onError: OnUpkeepError
): Schedule {
  const failed = (task: string) => (error: unknown) => onError(error, task)
  const tallying = failed('count denials')
  const schedules = [
    every(reservationTtlMs / 12, () => live.renew(db), failed('renew reservations')),
    every(reservationTtlMs / 3, stopping => sweep(db, stopping), failed('expire reservations')),
    every(TALLY_EVERY_MS, () => tally.flush(), tallying),
    every(ROLL_EVERY_MS, () => rollups.keep(), failed('add up usage')),
    every(PRUNE_EVERY_MS, () => prune(db), failed('forget idempotency keys')),
    every(PRUNE_EVERY_MS, () => rollups.prune(), failed('forget sums')),
    every(RETAIN_EVERY_MS, stopping => retain(db, retention, stopping), failed('retention'), ROLL_EVERY_MS)
  ]
  return {
    async stop() {
      const stopped = Promise.all([rollups.stop(), ...schedules.map(schedule => schedule.stop())])
      // The embedded engine cannot be cut short.
      await (db.kind === 'embedded'
        ? stopped
        : Promise.race([stopped, sleep(STOP_PATIENCE_MS, undefined, { ref: false })]))
      await tally.flush().catch(tallying)
    }
  }
}

/**
 * Gives back what nobody holds any more. Where the database refuses that for one user, because a counter is wrong or somebody has it locked, the
 * error is thrown when all others have theirs back.
 */
async function sweep(db: Database, stopping: AbortSignal): Promise<void> {
  const refused: unknown[] = []
  for (let after: string | undefined = ''; after !== undefined; ) {
    const users = await listExpired(db, SWEEP_USERS, undefined, after)
    for (const userId of users) {
      if (stopping.aborted) return
      await expireReservations(db, userId).catch(error => {
        if (!isRefused(error) && stateOf(error) !== LOCKED) throw error
        refused.push(error)
      })
    }
    after = users.length < SWEEP_USERS ? undefined : users.at(-1)
  }
  if (refused.length > 0) throw refused[0]
}

async function prune(db: Database): Promise<void> {
  while ((await pruneIdempotencyKeys(db)) > 0);
}
