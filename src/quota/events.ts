// What happens to quotas, for those who watch: one event per request or call.
import type { Violation } from './errors.ts'

interface ChargeFacts {
  type: string
  amount: number
  /** −1 when unlimited. */
  remaining: number
}

export type QuotaEvent =
  /** Charged, with its log rows written. */
  | { name: 'charged'; userId: string; endpoint: string | null; charges: readonly ChargeFacts[] }
  /** Already charged, and now with what it really cost: `setAmount` came too late for its log row. */
  | { name: 'amended'; userId: string; endpoint: string | null; charges: readonly ChargeFacts[] }
  /** Given back: the reply was not one that is charged; without a status, `release` was called. */
  | {
      name: 'released'
      userId: string
      endpoint: string | null
      charges: readonly ChargeFacts[]
      statusCode: number | null
    }
  /** Refused: the handler did not run, or `app.quota` threw. */
  | {
      name: 'denied'
      userId: string
      endpoint: string | null
      charges: readonly (ChargeFacts & { limit: number })[]
      statusCode: number
      /** By the database's clock. */
      at: Date
    }
  /** Let through unmetered, because the store failed and `storeFailure` is `open`. */
  | { name: 'unenforced'; userId: string; endpoint: string | null; error: unknown }
  /** Refused with 503, because the store failed. */
  | { name: 'store-failed'; userId: string | null; endpoint: string | null; error: unknown }
  /** A charge or a release that could not be written yet, and will be tried again. */
  | { name: 'owed'; userId: string; endpoint: string | null; error: unknown; pending: number }
  /**
   * A charge or a release that is not tried again: its user is gone, the database has refused it for a quarter of an hour, or the application
   * has closed.
   */
  | { name: 'dropped'; userId: string; endpoint: string | null; error: unknown }

/** What is reported of a denial: each quota that said no. */
export const deniedEvent = (
  userId: string,
  endpoint: string | null,
  { violations, at }: { violations: readonly Violation[]; at: Date },
  statusCode: number
): QuotaEvent => ({
  name: 'denied',
  userId,
  endpoint,
  charges: violations.map(({ type, required, remaining, limit }) => ({ type, amount: required, remaining, limit })),
  statusCode,
  at
})

/** Requests and calls, by what became of their charges. `unenforced`: let through because the store failed and `storeFailure` is `open`. */
export type EventCounts = Record<QuotaEvent['name'], number>

export type Emit<Log> = (event: QuotaEvent, log: Log) => void
