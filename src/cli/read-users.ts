// The users of a CSV file (RFC 4180), checked line by line before any of them is written.
import { readFileSync } from 'node:fs'
// Quotes, line breaks within them, byte order marks: a parser that handles them all, and needs no other package.
import { type CastingContext, parse } from 'csv-parse/sync'
import { isTimeZone } from '../quota/period.ts'
import { isUserId } from '../quota/user-id.ts'
import { isDay, isEmail } from '../quota/user-profile.ts'
import type { UserEntry } from '../store/operator/set-users.ts'

/** At most this many faults are listed; the rest are counted. */
const MAX_FAULTS = 20

interface Cell {
  text: string
  isQuoted: boolean
}

interface Line {
  number: number
  cells: string[]
  /** Which of them are quoted in the file. */
  quoted: boolean[]
}

interface Columns {
  id: number
  email: number
  time_zone: number
  period_anchor: number
}

export interface UsersFile {
  users: UserEntry[]
  /** Columns of the header that mean nothing to us. */
  passedOver: string[]
}

/** Throws an error that names the lines that are refused: the first twenty, and how many more there are. */
export function readUsers(file: string): UsersFile {
  const lines = readLines(file)
  const [first] = lines
  const header = first === undefined ? undefined : columnsOf(first.cells)
  const strange = header === undefined ? strangeLineOf(lines) : ambiguityOf(first as Line)
  if (strange !== undefined) throw new Error(refusal(file, [strange]))
  const columns = header ?? { id: 0, email: -1, time_zone: -1, period_anchor: -1 }
  const faults: string[] = []
  const seen = new Map<string, number>()
  const users = lines.slice(header === undefined ? 0 : 1).map(({ number, cells, quoted }) => {
    const user = entryOf(cells, columns)
    const fault = (quoted[columns.id] ? undefined : paddingOf(user)) ?? faultOf(user, seen.get(user.id))
    if (fault !== undefined) faults.push(`line ${number}: ${fault}`)
    seen.set(user.id, number)
    return user
  })
  if (faults.length > 0) throw new Error(refusal(file, faults))
  return { users, passedOver: header === undefined ? [] : passedOverOf((first as Line).cells, header) }
}

function readLines(file: string): Line[] {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(file))
    const options = { bom: true, cast: cellOf, info: true, relax_column_count: true, skip_empty_lines: true } as const
    const records = parse(text, options) as unknown as { record: Cell[]; info: { lines: number } }[]
    return records.map(({ record, info }) => ({
      number: info.lines,
      cells: record.map(cell => cell.text),
      quoted: record.map(cell => cell.isQuoted)
    }))
  } catch (error) {
    const { message, lines } = error as Error & { lines?: number }
    throw new Error(`${file} cannot be read as CSV${lines === undefined ? '' : `, line ${lines}`}: ${message}`)
  }
}

const cellOf = (text: string, { quoting }: CastingContext): Cell => ({ text, isQuoted: quoting })

/** What a header may call each of our columns. */
const NAMES: Readonly<Record<keyof Columns, readonly string[]>> = {
  id: ['id', 'user_id'],
  email: ['email'],
  time_zone: ['time_zone'],
  period_anchor: ['period_anchor']
}

const namesIn = (cells: readonly string[]): string[] => cells.map(cell => cell.trim().toLowerCase())

/** A first line that names one of our columns is a header; its other columns are ignored. */
function columnsOf(cells: readonly string[]): Columns | undefined {
  const names = namesIn(cells)
  const at = (column: keyof Columns) => names.findIndex(name => NAMES[column].includes(name))
  const id = at('id')
  const columns = {
    id: Math.max(id, 0),
    email: at('email'),
    time_zone: at('time_zone'),
    period_anchor: at('period_anchor')
  }
  const { email, time_zone, period_anchor } = columns
  return [id, email, time_zone, period_anchor].some(i => i >= 0) ? columns : undefined
}

/** Two columns of a header that may both be meant: an `id` beside a `user_id` is often that of another table's row. */
function ambiguityOf({ number, cells }: Line): string | undefined {
  const names = namesIn(cells)
  for (const known of Object.values(NAMES)) {
    const [one, other] = names.filter(name => known.includes(name))
    const told = one === other ? `${one} twice` : `both ${one} and ${other}`
    if (other !== undefined) return `line ${number}: it names ${told}; leave one column out, or rename it`
  }
  return undefined
}

const passedOverOf = (cells: readonly string[], columns: Columns): string[] =>
  cells.map(cell => cell.trim()).filter((name, i) => name !== '' && !Object.values(columns).includes(i))

/** Without a header of ours every line begins with an id: a file of another kind would create a user from each of its lines. */
function strangeLineOf(lines: readonly Line[]): string | undefined {
  const separated = lines.find(({ cells }) => /[;\t]/.test(cells[0] ?? ''))
  if (separated !== undefined)
    return `line ${separated.number}: '${separated.cells[0]}' is separated by semicolons or tabs; use commas, or if it is an id, begin with a line user_id`
  const [first] = lines
  if (first !== undefined && first.cells.filter(cell => cell.trim() !== '').length > 1)
    return `line ${first.number}: it names no known column; begin with a line such as user_id,email,time_zone,period_anchor (user_id alone is enough; other names are ignored)`
  return undefined
}

function entryOf(cells: readonly string[], columns: Columns): UserEntry {
  const cell = (i: number) => cells[i]?.trim() || null
  return {
    id: cells[columns.id] ?? '',
    email: cell(columns.email),
    timeZone: cell(columns.time_zone),
    periodAnchor: cell(columns.period_anchor)
  }
}

/** An id may begin or end with a space, but `alice, a@example.com` hardly means one. */
const paddingOf = ({ id }: UserEntry): string | undefined =>
  id === id.trim()
    ? undefined
    : `the id '${id}' begins or ends with white space; remove that, or quote the id if it is meant`

function faultOf({ id, email, timeZone, periodAnchor }: UserEntry, seenOn: number | undefined): string | undefined {
  if (!isUserId(id)) return 'the id must be 1 to 255 characters without control characters'
  if (seenOn !== undefined) return `the id '${id}' is already on line ${seenOn}`
  if (email !== null && !isEmail(email)) return `'${email}' is not an e-mail address`
  if (timeZone !== null && !isTimeZone(timeZone)) return `'${timeZone}' is not an IANA time zone such as Europe/Berlin`
  if (periodAnchor !== null && !isDay(periodAnchor)) return `'${periodAnchor}' is not a day such as 2026-01-31`
  return undefined
}

function refusal(file: string, faults: readonly string[]): string {
  const told = faults.slice(0, MAX_FAULTS)
  const rest = faults.length - told.length
  return `${file} was refused, and nothing was written:\n${told.map(fault => `  ${fault}`).join('\n')}${rest > 0 ? `\n  and ${rest} more lines` : ''}`
}
