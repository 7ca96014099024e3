// What every call of `app.quota` works with.
import type { Database } from '../store/database.ts'
import type { LiveReservations } from '../store/renew-reservations.ts'
import type { TypeCatalogue } from '../store/type-catalogue.ts'

export interface MeterContext {
  db: Database
  types: TypeCatalogue
  live: LiveReservations
  /** How long a reservation is held between renewals. */
  leaseMs: number
}
