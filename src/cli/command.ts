// What a command is: how it is called, what it takes, and what it does.
import type { ParseArgsConfig } from 'node:util'

/** The flags as they were given, checked against `flags`. */
export type Values = Readonly<Record<string, string | boolean | undefined>>

export interface Command {
  name: string
  /** What stands between the usage line and the flags. */
  description: string
  flags: Readonly<Record<string, Flag>>
  /** Returns the exit code. Throws UsageError if it was called wrongly, any other error for what went wrong. */
  run(values: Values, print: (text: string) => void): Promise<number>
}

export interface Flag {
  type: 'string' | 'boolean'
  /** What stands for the value in the help; only with `string`. */
  value?: string
  help: string
}

/** The caller's mistake, answered with the usage and exit code 2. */
export class UsageError extends Error {}

export const parseOptions = (command: Command): ParseArgsConfig['options'] => ({
  help: { type: 'boolean', short: 'h' },
  ...Object.fromEntries(Object.entries(command.flags).map(([name, { type }]) => [name, { type }]))
})

export const usageOf = (command: Command): string =>
  `Usage: fastify-quota ${command.name}${Object.keys(command.flags).length > 0 ? ' [flags]' : ''}`

export function helpOf(command: Command): string {
  const flags = Object.entries(command.flags).map(
    ([name, { value, help }]) => [`--${name}${value === undefined ? '' : ` ${value}`}`, help] as const
  )
  const rows = [...flags, ['-h, --help', 'Print this help.'] as const]
  const width = Math.max(...rows.map(([flag]) => flag.length)) + 2
  const list = rows.map(([flag, help]) => `  ${flag.padEnd(width)}${help}`).join('\n')
  return `${usageOf(command)}\n\n${command.description}\n\nFlags:\n${list}`
}

/** A text flag; undefined where it was not given. */
export function text(values: Values, name: string): string | undefined {
  const value = values[name]
  if (value === '') throw new UsageError(`--${name} needs a value.`)
  return typeof value === 'string' ? value : undefined
}
