#!/usr/bin/env node
// The command line: finds the command, reads its flags, and turns what comes of it into text and an exit code.
import { parseArgs } from 'node:util'
import { type Command, helpOf, parseOptions, UsageError, usageOf, type Values } from './command.ts'

interface Entry {
  name: string
  /** One line, for the list of commands. */
  summary: string
  /** Loaded when it is called for: each brings what it works with. */
  load(): Promise<Command>
}

const COMMANDS: readonly Entry[] = [
  {
    name: 'init',
    summary: 'Make the tables and the quota types, and give users their limits.',
    load: async () => (await import('./init.ts')).init
  },
  {
    name: 'doctor',
    summary: 'Tell what is wrong with the database or the routes, and what to do.',
    load: async () => (await import('./doctor.ts')).doctor
  },
  {
    name: 'token',
    summary: 'Print a JWT for a user, to try with.',
    load: async () => (await import('./token.ts')).token
  },
  {
    name: 'reconcile',
    summary: 'Compare counters with the usage log and the reservations.',
    load: async () => (await import('./reconcile.ts')).reconcile
  }
]

const HELP = `Usage: fastify-quota <command> [flags]

Commands:
${COMMANDS.map(({ name, summary }) => `  ${name.padEnd(11)}${summary}`).join('\n')}

fastify-quota <command> --help tells the flags of each. The database is --database-url, else DATABASE_URL, else the
embedded one in --data-dir, QUOTA_DATA_DIR or ./.fastify-quota.

Exit codes: 0 all is well, 1 something is wrong or failed, 2 called wrongly.`

const print = (text: string): void => {
  process.stdout.write(`${text}\n`)
}

async function run([name, ...rest]: string[]): Promise<number> {
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    print(HELP)
    return name === undefined ? 2 : 0
  }
  const entry = COMMANDS.find(candidate => candidate.name === name)
  if (entry === undefined) return refuse(`There is no command '${name}'.`, HELP)
  const command = await entry.load()
  try {
    return await runCommand(command, rest)
  } catch (error) {
    if (isUsageError(error))
      return refuse(error.message, `${usageOf(command)}\nfastify-quota ${name} --help tells more.`)
    process.stderr.write(`fastify-quota ${name}: ${error instanceof Error ? error.message : String(error)}\n`)
    return 1
  }
}

async function runCommand(command: Command, args: string[]): Promise<number> {
  const { values } = parseArgs({ args, options: parseOptions(command) ?? {}, strict: true, allowPositionals: false })
  if (values.help) {
    print(helpOf(command))
    return 0
  }
  return await command.run(values as Values, print)
}

function refuse(message: string, usage: string): number {
  process.stderr.write(`fastify-quota: ${message}\n\n${usage}\n`)
  return 2
}

const isUsageError = (error: unknown): error is Error =>
  error instanceof UsageError || String((error as { code?: unknown }).code).startsWith('ERR_PARSE_ARGS')

process.exit(await run(process.argv.slice(2)))
