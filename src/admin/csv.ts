// Rows as CSV (RFC 4180) in which no spreadsheet runs what somebody else wrote, wherever it takes a cell to begin.
// Quoted by a package that knows the quirks of all readers.
import { stringify } from 'csv-stringify/sync'

type Cell = string | number | null

/**
 * Where a cell begins with what makes it a formula: OWASP's "CSV injection". Spreadsheets of many countries split a file at semicolons,
 * some at tabs, and ignore quotes that are not at the beginning of what they take for a cell: so what follows a separator is a beginning as
 * well. Blanks and quotes before it do not keep it from being a formula.
 */
const FORMULA = /(^|\r?\n|[;\t\r])(?=[\s"]*[=+\-@＝＋－＠])|^(?=[\t\r\n])/g

/** What some reader would split or trim unless it is quoted. The package handles commas, quotes and CRLF, but not a CR or LF alone. */
const QUOTED = /[;\t\r\n]|^\s|\s$/

export const csvLines = (rows: readonly (readonly Cell[])[]): string =>
  stringify(
    rows.map(row => row.map(cell => (typeof cell === 'string' ? cell.replace(FORMULA, "$1'") : cell))),
    { record_delimiter: 'windows', quoted_match: QUOTED }
  )
