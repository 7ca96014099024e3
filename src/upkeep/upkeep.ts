// What is done without a request: renewing, expiring, counting, forgetting.
import type { Database } from '../store/database.ts'
import { expireReservations, listExpired } from '../store/expire-reservations.ts'
import { pruneIdempotencyKeys } from '../store/prune-idempotency-keys.ts'
import type { DenialTally } from './denial-tally.ts'
import type { LiveReservationSet } from './live-reservations.ts'
import { type RetentionOptions, retain } from './retention.ts'
import { every, type Schedule } from './schedule.ts'
import type { UsageRollups } from './usage-rollups.ts'

/** Users that one sweep gives back to; the next one goes on. */
const SWEEP_USERS = 500
const PRUNE_EVERY_MS = 3_600_000
const ROLL_EVERY_MS = 60_000
/** Each time all is looked at that is too old, also what is kept: a minute a million rows. */
const RETAIN_EVERY_MS = 6 * 3_600_000
/** How much later than the denial its count may be seen. Where there was none, nothing is asked of the database. */
const TALLY_EVERY_MS = 1_000

/**
 * A reservation is held for two thirds of `reservationTtlMs` and swept every third, so that it is given back within the whole of
 * it after its process died.
 */
export const leaseOf = (reservationTtlMs: number): number => Math.ceil((reservationTtlMs * 2) / 3)

export function startUpkeep(
  db: Database,
  { live, tally, rollups }: { live: LiveReservationSet; tally: DenialTally; rollups: UsageRollups },
  { reservationTtlMs, retention }: { reservationTtlMs: number; retention: RetentionOptions },
  onError: (error: unknown) => void
): Schedule {
  const schedules = [
    every(reservationTtlMs / 6, () => live.renew(db), onError),
    every(reservationTtlMs / 3, () => sweep(db), onError),
    every(TALLY_EVERY_MS, () => tally.flush(), onError),
    every(ROLL_EVERY_MS, () => rollups.keep(), onError),
    every(PRUNE_EVERY_MS, () => prune(db), onError),
    every(PRUNE_EVERY_MS, () => rollups.prune(), onError),
    every(RETAIN_EVERY_MS, stopping => retain(db, retention, stopping), onError, ROLL_EVERY_MS)
  ]
  return {
    async stop() {
      await Promise.all([rollups.stop(), ...schedules.map(schedule => schedule.stop())])
      await tally.flush().catch(onError)
    }
  }
}

/** Gives back what nobody holds any more; how many. */
async function sweep(db: Database): Promise<number> {
  let expired = 0
  for (const userId of await listExpired(db, SWEEP_USERS)) expired += await expireReservations(db, userId)
  return expired
}

async function prune(db: Database): Promise<void> {
  while ((await pruneIdempotencyKeys(db)) > 0);
}
