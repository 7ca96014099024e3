// fastify-quota report: what each user used of each quota type in a month, as text, CSV or JSON.
import { csvLines } from '../admin/csv.ts'
import { UNLIMITED } from '../quota/amount.ts'
import { usagePercent } from '../quota/balance.ts'
import { requireReady } from '../store/connection/connect-server.ts'
import { currentMonth, reportUsage, type UsageLine } from '../store/operator/report-usage.ts'
import { type Command, text, UsageError, type Values } from './command.ts'
import { CONNECTION_FLAGS, readTarget, requireEmbedded, withTarget } from './connection.ts'
import { table } from './table.ts'

const DEFAULT_FORMAT = 'text'

export const report: Command = {
  name: 'report',
  description: `Prints a line for each user and quota type with usage or denials in a month of the user's own time zone: what was used, the
limit and the share of it, the number of charges, and the number of denials. It changes nothing.

A flow with an hourly, daily, weekly or monthly period is reported by the periods that began in the month; if there are
several, their limits are added up. For a longer period it is what was charged in the month; for a level, what was stored at
the end of the month (or is stored now, while the month lasts). What counts is how long a period itself is, whatever the
type's period is by now.
The month is that of the time zone that the user has now: for a user who moved further west, a period that began at midnight
on the 1st is in the month before. So print a month's report before you move users.
The CSV (RFC 4180) puts an apostrophe before what a spreadsheet would take for a formula in a user id. In CSV and JSON,
\`limit\` is -1 where there is none.`,
  flags: {
    ...CONNECTION_FLAGS,
    month: { type: 'string', value: 'MONTH', help: 'Such as 2026-11. Default: the current month in UTC.' },
    format: {
      type: 'string',
      value: 'FORMAT',
      help: `text, csv or json. Default: ${DEFAULT_FORMAT}, which is printed once everything is read.`
    }
  },
  async run(values, print) {
    const month = readMonth(values)
    const printLines = readFormat(values)
    const target = readTarget(values)
    requireEmbedded(target)
    await withTarget(target, async db => {
      await requireReady(db)
      const of = month ?? (await currentMonth(db))
      await printLines(reportUsage(db, of), print, of)
    })
    return 0
  }
}

type Lines = AsyncIterable<UsageLine>
type Print = (text: string) => void
type PrintLines = (lines: Lines, print: Print, month: string) => Promise<void>

const FORMATS: Readonly<Record<string, PrintLines>> = { text: printText, csv: printCsv, json: printJson }

/** Not before 1970, nor where the next month's year has five digits, which PostgreSQL does not read as JavaScript writes them. */
function readMonth(values: Values): string | undefined {
  const month = text(values, 'month')
  if (month === undefined) return undefined
  if (!/^[0-9]{4}-(0[1-9]|1[0-2])$/.test(month) || month < '1970-01' || month > '9999-11')
    throw new UsageError(`--month must be a month such as 2026-11, from 1970-01 to 9999-11, but is '${month}'.`)
  return month
}

function readFormat(values: Values): PrintLines {
  const format = text(values, 'format') ?? DEFAULT_FORMAT
  const printLines = Object.hasOwn(FORMATS, format) ? FORMATS[format] : undefined
  if (printLines === undefined) throw new UsageError(`--format must be text, csv or json, but is '${format}'.`)
  return printLines
}

/** All lines are kept: a column is as wide as its widest cell. */
async function printText(lines: Lines, print: Print, month: string): Promise<void> {
  const rows: string[][] = []
  for await (const line of lines) rows.push(rowOf(line))
  if (rows.length === 0) return print(`Nothing was used or denied in ${month}.`)
  print(table([['USER', 'TYPE', 'UNIT', 'USED', 'LIMIT', 'SHARE', 'CALLS', 'DENIALS'], ...rows]))
}

function rowOf(line: UsageLine): string[] {
  const share = shareOf(line)
  return [
    line.userId,
    line.type,
    line.unit,
    String(line.used),
    line.limit === UNLIMITED ? 'unlimited' : String(line.limit),
    share === null ? '-' : `${share} %`,
    String(line.calls),
    String(line.denials)
  ]
}

const COLUMNS = ['user_id', 'quota_type', 'unit', 'used', 'limit', 'usage_percent', 'calls', 'denials'] as const

async function printCsv(lines: Lines, print: Print): Promise<void> {
  print(csvOf(COLUMNS))
  for await (const line of lines) print(csvOf(Object.values(documentOf(line))))
}

/** Without the line feed of its CRLF, which `print` adds. */
const csvOf = (cells: readonly (string | number | null)[]): string => csvLines([cells]).slice(0, -1)

/** One array, one element per line; printed one line behind, because the last has no comma. */
async function printJson(lines: Lines, print: Print): Promise<void> {
  let last: string | undefined
  for await (const line of lines) {
    print(last === undefined ? '[' : `${last},`)
    last = `  ${JSON.stringify(documentOf(line))}`
  }
  print(last === undefined ? '[]' : `${last}\n]`)
}

/** In the order of the columns. */
const documentOf = (line: UsageLine): Record<(typeof COLUMNS)[number], string | number | null> => ({
  user_id: line.userId,
  quota_type: line.type,
  unit: line.unit,
  used: line.used,
  limit: line.limit,
  usage_percent: shareOf(line),
  calls: line.calls,
  denials: line.denials
})

/** As everywhere: a limit of 0 leaves nothing, so it is used to 100 %, even if it led only to denials. */
const shareOf = ({ limit, used }: UsageLine): number | null => usagePercent({ limit, used, reserved: 0 })
