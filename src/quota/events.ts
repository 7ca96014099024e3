// What happens to quotas, for those who watch: one event a request, or a call.

interface ChargeFacts {
  type: string
  amount: number
  /** −1 when unlimited. */
  remaining: number
}

export type QuotaEvent =
  /** Charged, with its log rows written. */
  | { name: 'charged'; userId: string; endpoint: string | null; charges: readonly ChargeFacts[] }
  /** Given back: the reply was not one that is charged. */
  | { name: 'released'; userId: string; endpoint: string | null; charges: readonly ChargeFacts[]; statusCode: number }
  /** Refused; the handler did not run. */
  | {
      name: 'denied'
      userId: string
      endpoint: string | null
      charges: readonly (ChargeFacts & { limit: number })[]
      statusCode: number
    }
  /** Let through unmetered, because the store failed and `storeFailure` is `open`. */
  | { name: 'unenforced'; userId: string; endpoint: string | null; error: unknown }
  /** Refused with 503, because the store failed. */
  | { name: 'store-failed'; userId: string | null; endpoint: string | null; error: unknown }
  /** A charge or a release that could not be written yet, and will be tried again. */
  | { name: 'owed'; userId: string; endpoint: string | null; error: unknown; pending: number }
  /** A charge that can never be written: its user is gone. */
  | { name: 'dropped'; userId: string; endpoint: string | null; error: unknown }

export type Emit<Log> = (event: QuotaEvent, log: Log) => void
