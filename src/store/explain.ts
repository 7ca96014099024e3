// An error in full, for whoever runs the process.
import { FST_QUOTA_STORE } from '../quota/errors.ts'

/** The message, and the driver's own words, which its cause has. */
export function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { message, cause } = error
  return error instanceof FST_QUOTA_STORE && cause instanceof Error ? `${message} ${cause.message}` : message
}
