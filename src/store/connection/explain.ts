// An error in full, for whoever runs the process.
import { FST_QUOTA_STORE } from '../../quota/errors.ts'

/** The message, and the driver's own words from its cause. */
export function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { message, cause } = error
  return error instanceof FST_QUOTA_STORE && cause instanceof Error ? `${message} ${cause.message}` : message
}

/** The same for a connection given by a variable or a flag: the plugin's messages name its option, or either. */
export const explainConnection = (error: unknown, source: string): string =>
  explain(error)
    .replace(/^Option connection/, source)
    .replace('DATABASE_URL or the option connection', source)
    .replace(
      'for the embedded database write { dataDir }',
      'for the embedded database leave it out, and set QUOTA_DATA_DIR'
    )
