// Everything that can be wrong with the quota database, one check after the other; it changes nothing.
import { isTimeZone } from '../quota/period.ts'
import { listTypes } from '../store/catalogue/list-types.ts'
import { listExpired } from '../store/charge/expire-reservations.ts'
import { isIsolated, SET_ISOLATION } from '../store/connection/connect-server.ts'
import { viewHealth } from '../store/connection/view-health.ts'
import type { Database } from '../store/database.ts'
import { missingNets } from '../store/migration/check-nets.ts'
import { lackingRights } from '../store/migration/check-rights.ts'
import { missingFromSchema } from '../store/migration/check-schema.ts'
import { listMigrations, type Migrations, RESTORE } from '../store/migration/list-migrations.ts'
import { listUnidentified } from '../store/migration/list-unidentified.ts'
import { listTimeZones } from '../store/operator/list-time-zones.ts'
import { findDiscrepancies } from '../store/operator/reconcile.ts'
import { type Finding, hint, ok, wrong } from './finding.ts'

const OLDEST_VERSION = 140_000
const MAX_EXPIRED = 1_000
const INIT = 'run `npx fastify-quota init --schema-only` on this database'

/** Stops at a failed check that the others depend on. */
export async function checkDatabase(db: Database): Promise<Finding[]> {
  const { version, versionNumber, encoding, isolation, isReadOnly, latencyMs } = await viewHealth(db)
  const findings = [
    isReadOnly
      ? wrong(
          'connection',
          `answered in ${latencyMs} ms, but is read-only: it is a standby, or default_transaction_read_only is on`,
          'give the URL of the primary, or of all servers (postgres://one,two/app): the one that accepts writes is used'
        )
      : ok('connection', `answered in ${latencyMs} ms`),
    versionNumber >= OLDEST_VERSION
      ? ok('version', `PostgreSQL ${version}`)
      : wrong('version', `PostgreSQL ${version} is older than 14`, 'move the database to PostgreSQL 14 or newer'),
    encoding === 'UTF8'
      ? ok('encoding', encoding)
      : wrong(
          'encoding',
          `${encoding}: users and metadata with characters that it lacks cannot be written`,
          "move the quotas to a database made with ENCODING 'UTF8' TEMPLATE template0"
        ),
    isIsolated(isolation)
      ? wrong(
          'isolation',
          `${isolation.toUpperCase()}: concurrent requests on one counter fail with 503, and no application starts`,
          SET_ISOLATION
        )
      : ok('isolation', isolation.toUpperCase())
  ]
  const missing = await missingFromSchema(db)
  if (missing.length > 0) {
    const remedy = areApplied(await listMigrations(db)) ? RESTORE : INIT
    return [...findings, wrong('schema', `missing: ${someOf(missing)}`, remedy)]
  }
  findings.push(ok('schema', 'every table, column and key is there'), ...(await checkNets(db)))
  const lacking = await lackingRights(db)
  if (lacking !== undefined) return [...findings, wrong('rights', lacking.what, lacking.remedy)]
  return [
    ...findings,
    ok('rights', 'this role has every right that is needed'),
    ...(await checkMigrations(db)),
    ...(await checkTypes(db)),
    ...(await checkTimeZones(db)),
    await checkReservations(db),
    await checkCounters(db)
  ]
}

const areApplied = (migrations: Migrations | undefined): boolean =>
  migrations !== undefined && migrations.recorded === migrations.shipped

/** The first five of them. */
const someOf = (items: readonly string[]): string =>
  `${items.slice(0, 5).join(', ')}${items.length > 5 ? ` and ${items.length - 5} more` : ''}`

async function checkNets(db: Database): Promise<Finding[]> {
  const { cascades, constraints, indexes } = await missingNets(db)
  const findings: Finding[] = []
  if (cascades.length > 0)
    findings.push(wrong('schema', `users who are deleted leave rows behind: ${someOf(cascades)} missing`, BY_HAND))
  if (constraints.length > 0)
    findings.push(hint('schema', `nothing refuses wrong rows: ${someOf(constraints)} missing`, BY_HAND))
  if (indexes.length > 0) findings.push(hint('schema', `lists are slow: ${someOf(indexes)} missing`, BY_HAND))
  return findings
}

const BY_HAND = 'create it by hand, as the SQL in node_modules/fastify-quota/drizzle does'

async function checkMigrations(db: Database): Promise<Finding[]> {
  const migrations = await listMigrations(db)
  if (migrations === undefined)
    return [hint('migrations', 'this role may not read quota_migrations', 'run `doctor` as the role that runs `init`')]
  const { shipped, recorded, unknown } = migrations
  if (recorded === 0) {
    const made = 'none is recorded: drizzle-kit push made the tables'
    return [hint('migrations', made, `${INIT}, which records them for later versions`), ...(await checkIdentities(db))]
  }
  if (recorded < shipped) return [wrong('migrations', `${recorded} of ${shipped} are applied`, INIT)]
  if (unknown > 0)
    return [
      hint(
        'migrations',
        `${unknown} recorded that this version does not know`,
        'a newer version has run here: use it in every process'
      )
    ]
  return [ok('migrations', `${recorded} of ${shipped} are applied`)]
}

/** A push cannot set replica identities: drizzle-kit has no word for them. */
async function checkIdentities(db: Database): Promise<Finding[]> {
  const tables = await listUnidentified(db)
  if (tables.length === 0) return []
  const names = tables.map(({ table }) => table).join(', ')
  const remedy = `${INIT}, which gives them one`
  return [
    tables.some(({ published }) => published)
      ? wrong('replication', `DELETE is refused on tables published without a replica identity: ${names}`, remedy)
      : hint(
          'replication',
          `with a publication of all tables, DELETE would be refused on ${names}: no replica identity`,
          remedy
        )
  ]
}

async function checkTypes(db: Database): Promise<Finding[]> {
  const types = await listTypes(db)
  if (types.length === 0)
    return [
      wrong(
        'types',
        'there is no quota type',
        'declare them under the option `quotas`, or insert them with `npx fastify-quota init --types FILE`'
      )
    ]
  const list = (isActive: boolean) => types.filter(type => type.isActive === isActive).map(type => type.key)
  const findings = [ok('types', `${list(true).length} active: ${list(true).join(', ')}`)]
  const inactive = list(false).join(', ')
  return inactive === ''
    ? findings
    : [
        ...findings,
        hint('types', `switched off, and not charged: ${inactive}`, 'set is_active if that was not intended')
      ]
}

async function checkTimeZones(db: Database): Promise<Finding[]> {
  const zones = await listTimeZones(db)
  const users = zones.reduce((sum, zone) => sum + zone.users, 0)
  const bad = zones.filter(({ timeZone }) => !isTimeZone(timeZone))
  if (bad.length === 0)
    return [ok('time zones', `${users} ${users === 1 ? 'user' : 'users'}, every time zone is known`)]
  return bad.map(({ timeZone, users, userId }) =>
    wrong(
      'time zones',
      `'${timeZone}' is not a time zone: ${users === 1 ? `user '${userId}'` : `${users} users, one of them '${userId}'`}`,
      'write an IANA name such as Europe/Berlin into quota_users.time_zone; their requests fail until then'
    )
  )
}

async function checkReservations(db: Database): Promise<Finding> {
  const { length } = await listExpired(db, MAX_EXPIRED)
  if (length === 0) return ok('reservations', 'none has expired')
  return hint(
    'reservations',
    `some expired for ${length === MAX_EXPIRED ? `${MAX_EXPIRED} or more users` : length === 1 ? '1 user' : `${length} users`}: a process died`,
    "any running application releases them, and so does the user's next request"
  )
}

async function checkCounters(db: Database): Promise<Finding> {
  const { length } = await findDiscrepancies(db)
  if (length === 0) return ok('counters', 'every one is the sum of its log rows and reservations')
  return wrong(
    'counters',
    `${length === 1 ? '1 is' : `${length} are`} not the sum of log rows and reservations`,
    '`npx fastify-quota reconcile` lists them, and repairs them with --fix; somebody has written to the tables by hand'
  )
}
