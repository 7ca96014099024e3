// One load: all contenders in every pass, so that whatever else the machine does falls on each of them.
import { ask, askInTurn, askSelectOne, askToTheEdge, greet } from './ask.js'
import { countRows, wrongAdmissions, wrongReplies, wrongRows } from './checks.js'
import { expectedOf } from './loads.js'
import { start } from './processes.js'
import { makeStore } from './servers.js'
import { quantile } from './statistics.js'

/** While V8 compiles, a process takes two to four times as much CPU per request in its first two seconds, and is at its best after four or five. */
const WARM_UP_SECONDS = 5
const SELECT_SECONDS = 1

/** Gives the figures of each pass, by contender; `report` hears of what is wrong. */
export async function contest(load, names, { passes, seconds, servers, report }) {
  const figures = []
  const stores = new Map()
  for (let pass = 0; pass < passes; pass++) {
    const trip =
      load.by === 'turn' ? { trip: quantile(await askSelectOne(servers.postgres.url, SELECT_SECONDS), 0.5) } : {}
    const ofPass = {}
    for (const name of orderOf(names, pass)) {
      // What is used up is used up; elsewhere a store grows from pass to pass.
      if (load.by === 'edge') await stores.get(name)?.drop()
      if (load.by === 'edge' || !stores.has(name)) stores.set(name, await makeStore(name, servers))
      const { wrong, ...measured } = await run(name, stores.get(name), load, seconds)
      for (const what of wrong) report(`${load.title}: ${name}: ${what}`)
      ofPass[name] = { ...measured, ...trip }
    }
    figures.push(ofPass)
  }
  for (const store of stores.values()) await store.drop()
  return figures
}

/**
 * Rows of a Latin square in which nobody follows the same neighbour twice. For an odd number there is none: every second row is
 * backwards.
 */
export function orderOf(names, pass) {
  const n = names.length
  const places = Array.from({ length: n }, (_, i) => (i % 2 === 0 ? i / 2 : n - (i + 1) / 2))
  const order = places.map(place => names[(place + pass) % n])
  return n % 2 === 1 && pass % 2 === 1 ? order.reverse() : order
}

async function run(name, store, load, seconds) {
  const rowsBefore = await countRows(name, store.url)
  const server = await start(name, store.url, load)
  const asked = []
  let measured
  let wrong
  try {
    measured = await MEASURES[load.by](server.urls, load, seconds, asked, expectedOf(name, load).at(-1))
  } finally {
    wrong = await server.stop()
  }
  wrong.push(...wrongReplies(name, load, asked), ...(await wrongRows(name, store, rowsBefore, asked)))
  if (load.by === 'edge') wrong.push(...wrongAdmissions(name, load, measured))
  return { ...measured, wrong }
}

/** Each gives its figures, and adds all that it asked to `asked`. */
const MEASURES = {
  rate: async (urls, load, seconds, asked, denied) => {
    asked.push(await greet(urls, load))
    asked.push(await ask(urls, load, WARM_UP_SECONDS, denied))
    return figuresOf(await ask(urls, load, seconds, denied), asked)
  },
  turn: async (urls, load, seconds, asked) => {
    asked.push(await greet(urls, load))
    asked.push(await askInTurn(urls, load, WARM_UP_SECONDS))
    return figuresOf(await askInTurn(urls, load, seconds), asked)
  },
  edge: async (urls, load, _seconds, asked, denied) => {
    // Others than those who are counted: these are seen for the first time by four processes at once.
    const others = { ...load, from: load.users }
    asked.push(await greet(urls, others))
    asked.push(await ask(urls, others, WARM_UP_SECONDS, denied))
    const counted = await askToTheEdge(urls, load)
    asked.push(counted)
    return { admitted: counted.admitted }
  }
}

function figuresOf(last, asked) {
  asked.push(last)
  const { requests, seconds, p50, p99 } = last
  return { rate: requests / seconds, p50, p99 }
}
