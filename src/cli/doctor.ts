// fastify-quota doctor: what is wrong with the database or the routes, and what to do about it.
import { FST_QUOTA_DIRECTORY_IN_USE, FST_QUOTA_DIRECTORY_UNREADABLE } from '../quota/errors.ts'
import { explain } from '../store/connection/explain.ts'
import { stateOf } from '../store/database.ts'
import { GRANT } from '../store/migration/check-rights.ts'
import { checkDatabase } from './check-database.ts'
import { checkRoutes, type RouteCheck } from './check-routes.ts'
import { type Command, text } from './command.ts'
import { CONNECTION_FLAGS, NoDatabase, readTarget, requireEmbedded, type Target, withTarget } from './connection.ts'
import { describeFinding, type Finding, hint, wrong } from './finding.ts'
import { loadApp, standaloneApp, thrown } from './load-app.ts'

export const doctor: Command = {
  name: 'doctor',
  description: `Checks the connection, PostgreSQL's version, the tables, the migrations, the quota types, users' time zones, reservations and
counters, and changes none of them; then prints what meters each route. Exit code 1 if something is wrong.
The default export of the file of --app is a Fastify instance, a function that returns one, or a Fastify plugin (as for
fastify-cli). It must not listen. It is started as usual, with its own database.`,
  flags: {
    ...CONNECTION_FLAGS,
    app: {
      type: 'string',
      value: 'FILE',
      help: 'The application whose routes to check. Default: the standalone server.'
    }
  },
  async run(values, print) {
    const target = readTarget(values)
    print(`On ${target.label}:\n`)
    const findings = await examineDatabase(target)
    print(findings.map(describeFinding).join('\n'))
    // After the database is closed again: the application may open the same directory.
    const file = text(values, 'app')
    const routes = await examineRoutes(file)
    print(`\nThe routes of ${file ?? 'the standalone server'}:\n`)
    if (file === undefined) print(describeFinding(NOT_YOURS))
    print(routes.findings.map(describeFinding).join('\n'))
    if (routes.table !== '') print(`\n${routes.table}`)
    const wrongs = [...findings, ...routes.findings].filter(finding => finding.state === 'wrong').length
    print(
      `\n${wrongs === 0 ? 'Nothing is wrong.' : wrongs === 1 ? '1 thing is wrong.' : `${wrongs} things are wrong.`}`
    )
    return wrongs === 0 ? 0 : 1
  }
}

const NOT_YOURS = hint('routes', 'those of your own application were not checked', 'name its file: --app FILE')

/** SQLSTATE of a missing right. */
const FORBIDDEN = '42501'

async function examineDatabase(target: Target): Promise<Finding[]> {
  try {
    requireEmbedded(target)
    return await withTarget(target, checkDatabase)
  } catch (error) {
    if (stateOf(error) === FORBIDDEN) return [wrong('rights', explain(error), GRANT)]
    return [wrong('connection', explain(error), remedyOf(error, target))]
  }
}

function remedyOf(error: unknown, { source }: Target): string {
  if (source !== 'embedded') return `check ${source}, and that the server is up and lets this user in`
  if (error instanceof NoDatabase) return 'create it with `npx fastify-quota init`'
  const { cause } = error as Error
  if (cause instanceof FST_QUOTA_DIRECTORY_IN_USE) return 'one process at a time: stop the application that has it open'
  if (cause instanceof FST_QUOTA_DIRECTORY_UNREADABLE)
    return 'a copy must be of the whole directory, and made while no process had it open; `npx fastify-quota init` creates a new one'
  return 'fix what the message says; the application cannot work with this directory either'
}

async function examineRoutes(file: string | undefined): Promise<RouteCheck> {
  try {
    const app = file === undefined ? await standaloneApp() : await loadApp(file)
    try {
      return await checkRoutes(app)
    } finally {
      await app.close()
    }
  } catch (error) {
    const remedy = 'fix what the message says; until then the application does not start either'
    return { findings: [wrong('routes', thrown(error), remedy)], table: '' }
  }
}
