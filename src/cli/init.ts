// fastify-quota init: the tables, the quota types, and the limits of existing users.
import { FST_QUOTA_SCHEMA } from '../quota/errors.ts'
import type { QuotaDeclaration } from '../quota/quota-type.ts'
import { QUOTAS } from '../server/quotas.ts'
import { declareTypes } from '../store/catalogue/declare-types.ts'
import { listTypes } from '../store/catalogue/list-types.ts'
import { ensureUser } from '../store/charge/ensure-user.ts'
import { requireReachable } from '../store/connection/connect-server.ts'
import { explain } from '../store/connection/explain.ts'
import type { Database } from '../store/database.ts'
import { missingFromSchema, tellMissing } from '../store/migration/check-schema.ts'
import { RESTORE } from '../store/migration/list-migrations.ts'
import { migrate } from '../store/migration/migrate.ts'
import { listUsersWithoutLimits } from '../store/operator/list-users-without-limits.ts'
import { setUsers, type UserEntry } from '../store/operator/set-users.ts'
import type { Actor } from '../store/record-audit.ts'
import { type Command, text, UsageError, type Values } from './command.ts'
import { CONNECTION_FLAGS, readTarget, withTarget } from './connection.ts'
import { readTypes } from './read-types.ts'
import { readUsers, type UsersFile } from './read-users.ts'

export const init: Command = {
  name: 'init',
  description: `Applies the migrations that are not applied yet, inserts quota types where there are none, and gives users their limits.
It can be run again: nothing is done twice, and no usage is touched.

An application that declares its types under the option \`quotas\` needs none from here: use --schema-only.
The CSV of --users-from (RFC 4180, UTF-8, commas) has a user id on each line, or a header: the column id or user_id (else the first column
is the id), email, time_zone and period_anchor. Empty cells change nothing, and other columns are ignored. An id that begins or ends with a
space must be quoted.`,
  flags: {
    ...CONNECTION_FLAGS,
    types: {
      type: 'string',
      value: 'FILE',
      help: "JSON as for the option `quotas`. Default: the standalone server's types, if there are none yet."
    },
    'schema-only': { type: 'boolean', help: 'Only create the tables: no types, no users.' },
    'users-from': { type: 'string', value: 'FILE', help: 'CSV: these users get the limits of every active type.' },
    'all-users': { type: 'boolean', help: 'Every user in quota_users gets any missing limits.' }
  },
  async run(values, print) {
    // Files are read whole first: a wrong line is known before anything is written.
    const order = readOrder(values)
    const target = readTarget(values)
    await withTarget(target, async db => {
      await requireReachable(db)
      print(`On ${target.label}:`)
      const applied = await migrate(db)
      await requireComplete(db)
      print(describeMigrations(db, applied))
      if (!order.isSchemaOnly) print(await makeTypes(db, order.types))
      if (order.file !== undefined) {
        const { users, passedOver } = order.file
        print(await giveToUsers(db, users))
        if (passedOver.length > 0) print(`- columns of the file that were ignored: ${passedOver.join(', ')}`)
      }
      if (order.isForAllUsers) print(`- limits given to ${people(await giveLimits(db))} of quota_users`)
    })
    return 0
  }
}

interface Order {
  types: Record<string, QuotaDeclaration> | undefined
  file: UsersFile | undefined
  isSchemaOnly: boolean
  isForAllUsers: boolean
}

function readOrder(values: Values): Order {
  const types = text(values, 'types')
  const users = text(values, 'users-from')
  const isSchemaOnly = values['schema-only'] === true
  const isForAllUsers = values['all-users'] === true
  if (isSchemaOnly && (types !== undefined || users !== undefined || isForAllUsers))
    throw new UsageError('--schema-only inserts no types and gives no limits; leave out the other flags.')
  return {
    types: types === undefined ? undefined : readTypes(types),
    file: users === undefined ? undefined : readUsers(users),
    isSchemaOnly,
    isForAllUsers
  }
}

/** No migration brings back what was lost later: to say that all is well would send the operator in circles between this and `doctor`. */
async function requireComplete(db: Database): Promise<void> {
  const missing = await missingFromSchema(db)
  if (missing.length > 0) throw new FST_QUOTA_SCHEMA(tellMissing(missing), `To fix it, ${RESTORE}`)
}

function describeMigrations({ kind }: Database, applied: number): string {
  // Opening an embedded database has applied them already.
  if (applied === 0 || kind === 'embedded') return '- the tables are those of this version'
  return `- ${applied === 1 ? '1 migration' : `${applied} migrations`} applied: the tables are those of this version now`
}

async function makeTypes(db: Database, types: Record<string, QuotaDeclaration> | undefined): Promise<string> {
  const before = await listTypes(db)
  if (types === undefined && before.length > 0) return `- ${count(before.length)} already there: ${keysOf(before)}`
  await declareTypes(db, types ?? QUOTAS, BY)
  const after = await listTypes(db)
  const added = after.filter(type => !before.some(old => old.key === type.key))
  return added.length === 0
    ? `- the types of the file are already there; what changed in the file was updated`
    : `- ${count(added.length)} inserted: ${keysOf(added)}`
}

const count = (n: number): string => (n === 1 ? '1 quota type' : `${n} quota types`)
const keysOf = (types: readonly { key: string }[]): string => types.map(type => type.key).join(', ')
const people = (n: number): string => (n === 1 ? '1 user' : `${n} users`)

const BY: Actor = { actor: 'fastify-quota init', reason: null, requestId: null }

/** Rows per statement. */
const BATCH = 500
/** Users at once: as many as a pool has connections. */
const WIDTH = 10

async function giveToUsers(db: Database, users: readonly UserEntry[]): Promise<string> {
  const done = { added: 0, changed: 0, given: 0 }
  for (let i = 0; i < users.length; i += BATCH) {
    const batch = users.slice(i, i + BATCH)
    const { added, changed } = await setUsers(db, batch, BY)
    done.added += added
    done.changed += changed
    done.given += await giveLimits(
      db,
      batch.map(user => user.id)
    )
  }
  return `- ${people(users.length)} of the file: ${done.added} new, ${done.changed} changed; limits given to ${people(done.given)}`
}

/** Gives all users, or these, the limits of active types that they lack; returns how many users lacked any. */
async function giveLimits(db: Database, ids?: readonly string[]): Promise<number> {
  let given = 0
  for (;;) {
    const without = await listUsersWithoutLimits(db, BATCH, ids)
    if (without.length === 0) return given
    for (let i = 0; i < without.length; i += WIDTH)
      await Promise.all(without.slice(i, i + WIDTH).map(userId => give(db, userId)))
    given += without.length
  }
}

async function give(db: Database, userId: string): Promise<void> {
  try {
    await ensureUser(db, userId)
  } catch (error) {
    throw new Error(`user '${userId}': ${explain(error)}`, { cause: error })
  }
}
