// Asks the database who it is: that it answers, how fast, and which PostgreSQL stands behind it.
import type { Database, DatabaseKind } from './database.ts'

export interface DatabaseHealth {
  kind: DatabaseKind
  /** As people say it: `15.4`. */
  version: string
  /** As PostgreSQL counts: 150004. */
  versionNumber: number
  /** `UTF8`, or what cannot hold every text. */
  encoding: string
  /** Of a statement that asks for none: `read committed`. */
  isolation: string
  latencyMs: number
}

const ASKED = `
SELECT current_setting('server_version') AS version, current_setting('server_version_num') AS number,
       current_setting('server_encoding') AS encoding, current_setting('transaction_isolation') AS isolation`

/** Rejects with FST_QUOTA_STORE when there is no answer. */
export async function viewHealth(db: Database, deadlineMs?: number): Promise<DatabaseHealth> {
  const start = performance.now()
  const [row] = await db.query<{ version: string; number: string; encoding: string; isolation: string }>(
    ASKED,
    [],
    deadlineMs
  )
  return {
    kind: db.kind,
    // Distributions append their own build: `15.4 (Debian 15.4-1)`.
    version: row?.version.split(' ')[0] ?? '',
    versionNumber: Number(row?.number),
    encoding: row?.encoding ?? '',
    isolation: row?.isolation ?? '',
    latencyMs: Math.round(performance.now() - start)
  }
}
