// Markdown: what is printed, and what README.md has between its marks.
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { addedTrips, BARS } from './loads.js'
import { median } from './statistics.js'

/** `passes`: figures of each pass, by contender. */
export const tableOf = (load, names, passes) => `### ${load.title}\n\n${TABLES[load.by](load, names, passes)}`

const TABLES = {
  rate: ({ peer = 'flexible-postgres' }, names, passes) =>
    markdown(
      ['', 'requests/s, median (range)', 'p50 ms', 'p99 ms', '× bare', `× ${peer}`],
      names.map(name => [
        name,
        rangeOf(passes.map(pass => pass[name].rate)),
        over(passes, pass => pass[name].p50).toFixed(1),
        over(passes, pass => pass[name].p99).toFixed(1),
        number(over(passes, pass => pass[name].rate / pass.bare?.rate)),
        number(over(passes, pass => pass[name].rate / pass[peer]?.rate))
      ])
    ),

  turn: (_load, names, passes) =>
    `${markdown(
      ['', 'requests/s, median (range)', 'p50 ms', 'p99 ms', 'added, in round trips'],
      names.map(name => [
        name,
        rangeOf(passes.map(pass => pass[name].rate)),
        over(passes, pass => pass[name].p50).toFixed(3),
        over(passes, pass => pass[name].p99).toFixed(3),
        name === 'bare' ? '' : number(over(passes, addedTrips(name)))
      ])
    )}\n\nA round trip is the p50 of \`SELECT 1\`: ${over(passes, pass => pass[names[0]].trip).toFixed(3)} ms.`,

  edge: ({ users, limit }, names, passes) =>
    markdown(
      ['', `2xx of ${thousands(users * limit)}`, 'users above their limit', 'most that one got'],
      names.map(name => {
        const all = passes.map(pass => pass[name].admitted)
        return [
          name,
          spread(all.map(admitted => admitted.reduce((total, count) => total + count, 0))),
          spread(all.map(admitted => admitted.filter(count => count > limit).length)),
          spread(all.map(admitted => Math.max(...admitted)))
        ]
      })
    )
}

/** `results`: the passes of each load, by its key. */
export function barsOf(results) {
  const rows = BARS.flatMap(({ title, load, figureOf, floor, goal }) => {
    const reached = over(results.get(load) ?? [], figureOf)
    return Number.isNaN(reached) ? [] : [[title, floor, goal, number(reached), rankOf(reached, floor, goal)]]
  })
  return rows.length === 0 ? undefined : `### Reached\n\n${markdown(['', 'floor', 'goal', 'reached', ''], rows)}`
}

function rankOf(reached, floor, goal) {
  const atLeast = bar => (goal < floor ? reached <= bar : reached >= bar)
  if (atLeast(goal)) return 'goal'
  return atLeast(floor) ? 'floor' : 'below the floor'
}

/** Replaces what stands between the marks. */
export async function write(text) {
  const path = join(import.meta.dirname, '../README.md')
  const [start, end] = ['<!-- bench -->', '<!-- /bench -->']
  const readme = await readFile(path, 'utf8')
  const [from, to] = [readme.indexOf(start), readme.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`bench/README.md has no ${start} … ${end}`)
  await writeFile(path, `${readme.slice(0, from + start.length)}\n${text}\n${readme.slice(to)}`)
}

function markdown(head, rows) {
  const line = cells => `|${cells.map(cell => (cell === '' ? ' ' : ` ${cell} `)).join('|')}|`
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n')
}

const over = (passes, figureOf) => median(passes.map(figureOf))

const rangeOf = rates =>
  `${Math.round(median(rates))} (${Math.round(Math.min(...rates))}–${Math.round(Math.max(...rates))})`

const spread = counts => [...new Set([Math.min(...counts), Math.max(...counts)])].map(thousands).join('–')

const number = value => (Number.isNaN(value) ? '–' : value.toFixed(2))

/** 5 000 as in the titles. */
const thousands = value => String(value).replace(/\B(?=(\d{3})+$)/g, ' ')
