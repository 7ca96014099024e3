import { parse } from 'csv-parse/sync'
import t from 'tap'
import { csvLines } from '../../src/admin/csv.ts'

const lineOf = (text: string) => csvLines([[text, 'next']])

t.test('writes any text but a formula so that it parses back unchanged', async t => {
  for (const text of [
    '',
    'a',
    ' a',
    'a ',
    'a;b',
    'a\tb',
    'a,b',
    'a"b',
    '"',
    'a\nb',
    'a\r\nb',
    'a\n\n\tb',
    '\u00a0a',
    'a-b',
    'a;b-c',
    '{"k":"v;w"}',
    "O'Brien"
  ])
    t.strictSame(parse(lineOf(text), { record_delimiter: '\r\n' }), [[text, 'next']], JSON.stringify(text))
})

t.test('quotes text that a reader might split or trim', async t => {
  for (const text of ['a;b', 'a\tb', ' a', 'a ', 'a,b', 'a\nb'])
    t.equal(lineOf(text), `"${text}",next\r\n`, JSON.stringify(text))
  t.equal(lineOf('a b'), 'a b,next\r\n', 'quotes no other text')
})

t.test('puts an apostrophe before a formula wherever some spreadsheet would start a cell', async t => {
  for (const sign of ['=', '+', '-', '@', '＝', '＋', '－', '＠', '\t=', '\r=', '\n=', ' =', '"=']) {
    for (const [before, after] of [
      ['', "'"],
      ['a;', "a;'"],
      ['a\t', "a\t'"],
      ['a\n', "a\n'"]
    ] as const) {
      const [[text]] = parse(lineOf(`${before}${sign}1+1`), { record_delimiter: '\r\n' }) as [[string]]
      t.ok(text.startsWith(after), JSON.stringify(text))
      t.equal(text.replaceAll("'", ''), `${before}${sign}1+1`, 'nothing else is changed')
    }
  }
})

t.test('writes numbers unchanged, and null as an empty cell', async t => {
  t.equal(csvLines([[-4, 2.5, null]]), '-4,2.5,\r\n')
})

/** Splits a line like a spreadsheet that separates cells by semicolons: a quote counts only at the start of a cell. */
function cellsBySemicolon(line: string): string[] {
  const cells: string[] = []
  let rest = line
  while (rest !== '') {
    const [whole, quoted, plain] = /^(?:"((?:[^"]|"")*)"([^;]*)|([^;]*))(?:;|$)/.exec(rest)!
    cells.push(quoted === undefined ? whole.replace(/;$/, '') : quoted.replaceAll('""', '"') + plain)
    rest = rest.slice(whole.length)
  }
  return cells
}

t.test('leaves no formula in a spreadsheet that splits at semicolons either', async t => {
  for (const id of ['a;=1+1', ';=1+1', 'a; =1+1', 'a;"=1+1"', 'a";=1+1;"', 'a;\t=1+1', 'a;;=1+1']) {
    const line = csvLines([['01a20cff', id, JSON.stringify({ note: id })]]).trimEnd()
    for (const cell of cellsBySemicolon(line)) t.notMatch(cell, /^[\s"]*[=+\-@]/, `${id}: ${line}`)
  }
})
