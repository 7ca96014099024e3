// Asks the database whether it answers, how fast, which PostgreSQL it is, and whether it can be written to.
import type { Database, DatabaseKind } from '../database.ts'

export interface DatabaseHealth {
  kind: DatabaseKind
  /** As people say it: `15.4`. */
  version: string
  /** As PostgreSQL counts: 150004. */
  versionNumber: number
  /** `UTF8`, or one that cannot hold every text. */
  encoding: string
  /** That of a statement that asks for none: `read committed`. */
  isolation: string
  /** It is a standby, or was made read-only. */
  isReadOnly: boolean
  latencyMs: number
}

const ASKED = `
SELECT current_setting('server_version') AS version, current_setting('server_version_num') AS number,
       current_setting('server_encoding') AS encoding, current_setting('transaction_isolation') AS isolation,
       current_setting('transaction_read_only') = 'on' AS is_read_only`

interface HealthRow {
  version: string
  number: string
  encoding: string
  isolation: string
  is_read_only: boolean
}

/** Rejects with FST_QUOTA_STORE when there is no answer. */
export async function viewHealth(db: Database, deadlineMs?: number): Promise<DatabaseHealth> {
  const start = performance.now()
  const [row] = await db.query<HealthRow>(ASKED, [], deadlineMs)
  return {
    kind: db.kind,
    // Distributions append their own build: `15.4 (Debian 15.4-1)`.
    version: row?.version.split(' ')[0] ?? '',
    versionNumber: Number(row?.number),
    encoding: row?.encoding ?? '',
    isolation: row?.isolation ?? '',
    isReadOnly: row?.is_read_only ?? false,
    latencyMs: Math.round(performance.now() - start)
  }
}

/** Locks no row, but asks to: a read-only server refuses that, and the connection moves to the one that writes. */
const MAY_WRITE = 'SELECT 1 FROM quota_types WHERE false FOR NO KEY UPDATE'

/** The same where quotas can be kept. Rejects with FST_QUOTA_STORE also where the database is read-only. */
export async function viewWritableHealth(db: Database, deadlineMs: number): Promise<DatabaseHealth> {
  const within = performance.now() + deadlineMs
  await db.query(MAY_WRITE, [], deadlineMs)
  return await viewHealth(db, Math.max(within - performance.now(), 1))
}
