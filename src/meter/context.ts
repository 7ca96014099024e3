// What every call of `app.quota` works with.
import type { QuotaEvent } from '../quota/events.ts'
import type { TypeCatalogue } from '../store/catalogue/type-catalogue.ts'
import type { Admission, WantedCharge } from '../store/charge/admit.ts'
import type { LiveReservations } from '../store/charge/renew-reservations.ts'
import type { Database } from '../store/database.ts'
import type { Reservations } from '../store/group/reservations.ts'

export interface MeterContext {
  db: Database
  /** Shares statements with requests. */
  store: Pick<Reservations, 'reserve' | 'commit' | 'release' | 'voidCharges' | 'charge' | 'moveLevel'>
  types: TypeCatalogue
  live: LiveReservations
  /** Runs a reserve. Where it rejects, nothing stays held, even if the database carries it out after all. */
  reserving: (userId: string, charges: readonly WantedCharge[], reserve: () => Promise<Admission>) => Promise<Admission>
  /** How long a reservation is held between renewals. */
  leaseMs: number
  /** Must be called where a user may have room again. */
  changed: (userId: string) => void
  /** How long a call waits for the database. */
  storeTimeoutMs: number
  /** Counts what happened. It is not logged: the caller is told by what was thrown. */
  count: (event: QuotaEvent) => void
}
