#!/usr/bin/env node
// The command line: finds the command, reads its flags, and turns the result into text and an exit code.
import { writeSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { DEFAULT_DIRECTORY } from '../store/connection/default-directory.ts'
import { explain } from '../store/connection/explain.ts'
import { type Command, helpOf, parseOptions, UsageError, usageOf, type Values } from './command.ts'

interface Entry {
  name: string
  /** One line, for the list of commands. */
  summary: string
  /** Loaded on demand: each brings what it works with. */
  load(): Promise<Command>
}

const COMMANDS: readonly Entry[] = [
  {
    name: 'init',
    summary: 'Create the tables and the quota types, and give users their limits.',
    load: async () => (await import('./init.ts')).init
  },
  {
    name: 'doctor',
    summary: 'Report what is wrong with the database or the routes, and how to fix it.',
    load: async () => (await import('./doctor.ts')).doctor
  },
  {
    name: 'token',
    summary: 'Print a JWT for a user, for trying things out.',
    load: async () => (await import('./token.ts')).token
  },
  {
    name: 'reconcile',
    summary: 'Compare counters with the usage log and the reservations, and repair them.',
    load: async () => (await import('./reconcile.ts')).reconcile
  },
  {
    name: 'report',
    summary: 'Print what each user used of each quota type in a month.',
    load: async () => (await import('./report.ts')).report
  }
]

const HELP = `Usage: fastify-quota <command> [flags]

Commands:
${COMMANDS.map(({ name, summary }) => `  ${name.padEnd(11)}${summary}`).join('\n')}

fastify-quota <command> --help lists the flags of each. The database is --database-url, else DATABASE_URL, else the
embedded one in --data-dir, QUOTA_DATA_DIR or ${DEFAULT_DIRECTORY}.

Exit codes: 0 all is well, 1 something is wrong or failed, 2 wrong usage, 141 the reader of a pipe left.`

const STDOUT = 1

/** The reader of the output has left, as `head` does. */
class ReaderLeft extends Error {}

/** What a shell reports for a program that ends so: 128 + SIGPIPE. */
const READER_LEFT = 141

/**
 * Returns once the text is out. What `process.stdout` still held of a pipe's text at the end was lost (all but 64 000 of 2 000 000
 * characters), and a long report would pile up there for a slow reader.
 */
function print(text: string): void {
  let rest: Buffer = Buffer.from(`${text}\n`)
  while (rest.length > 0) rest = rest.subarray(writeSome(rest))
}

/** How many bytes of it were written. */
function writeSome(bytes: Buffer): number {
  try {
    return writeSync(STDOUT, bytes)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EPIPE') throw new ReaderLeft()
    if (code !== 'EAGAIN') throw error
    // The pipe is full, and somebody made it non-blocking.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
    return 0
  }
}

async function main(args: string[]): Promise<number> {
  try {
    return await run(args)
  } catch (error) {
    if (error instanceof ReaderLeft) return READER_LEFT
    throw error
  }
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
    if (error instanceof ReaderLeft) throw error
    if (isUsageError(error))
      return refuse(error.message, `${usageOf(command)}\nfastify-quota ${name} --help tells more.`)
    process.stderr.write(`fastify-quota ${name}: ${explain(error)}\n`)
    return 1
  }
}

async function runCommand(command: Command, args: string[]): Promise<number> {
  const options = parseOptions(command) ?? {}
  const { values, tokens } = parseArgs({ args, options, strict: true, allowPositionals: false, tokens: true })
  const names = tokens.flatMap(token => (token.kind === 'option' ? [token.name] : []))
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined) throw new UsageError(`--${twice} is given twice.`)
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

process.exit(await main(process.argv.slice(2)))
