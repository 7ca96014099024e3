// Who is measured under which load, and what our own figures are held against.
export const UNLIMITED = 1_000_000_000

/** Connections to PostgreSQL that a contender may open, over all of its processes. */
const POOL = 10
const POOL_OF_FOUR = 24

export const REDIS = ['rate-limit-redis', 'flexible-redis']
const COUNTING = [...REDIS, 'flexible-postgres', 'check-update-insert', 'quota']
const PEERS = ['bare', 'rate-limit-memory', ...REDIS, 'flexible-postgres', 'check-update-insert']

const LOAD = { by: 'rate', connections: 50, users: 1_000, limit: UNLIMITED, processes: 1, pool: POOL }
const FOUR = { ...LOAD, processes: 4, pool: POOL_OF_FOUR }

export const LOADS = {
  uniform: {
    ...LOAD,
    title: '50 connections, 1 000 users',
    of: [...PEERS, 'drizzle-check-update-insert', 'quota', 'quota-after-reply', 'quota-consume']
  },
  hot: { ...LOAD, title: '50 connections, one hot user', users: 1, of: [...PEERS, 'quota', 'quota-consume'] },
  several: {
    ...LOAD,
    title: '50 connections, 1 000 users, two charges each',
    peer: 'flexible-postgres-two',
    of: ['bare', 'flexible-postgres-two', 'check-update-insert-two', 'quota-two']
  },
  wide: {
    ...LOAD,
    title: '200 connections, 1 000 users',
    connections: 200,
    of: ['bare', 'flexible-postgres', 'quota']
  },
  denied: {
    ...LOAD,
    title: '50 connections, every request denied',
    limit: 0,
    of: ['bare', 'rate-limit-memory', ...REDIS, 'flexible-postgres', 'quota']
  },
  single: {
    ...LOAD,
    by: 'turn',
    title: 'One request at a time',
    connections: 1,
    of: ['bare', 'flexible-postgres', 'quota']
  },
  unmetered: { ...LOAD, title: '50 connections, a route that is not metered', of: ['bare', 'unmetered'] },
  four: { ...FOUR, title: '50 connections, 1 000 users, four processes', of: ['bare', ...COUNTING] },
  'four-hot': {
    ...FOUR,
    title: '50 connections, one hot user, four processes',
    users: 1,
    of: ['flexible-postgres', 'quota']
  },
  edge: {
    ...FOUR,
    by: 'edge',
    title: 'To the limit: 50 connections, 100 users with 50 each, four processes',
    users: 100,
    limit: 50,
    of: COUNTING
  }
}

/** Who has the tables of the plugin, also where the route is not metered by it. */
export const hasQuota = name => name.startsWith('quota') || name === 'unmetered'

/** Who keeps a row for each request that was charged. */
export const keepsLog = name => name.includes('check-update-insert') || name.startsWith('quota')

/** How many. */
export const rowsEach = name => (name.endsWith('-two') ? 2 : 1)

/** Which statuses are none to wonder at. */
export function expectedOf(name, { limit, by }) {
  const denied = name.startsWith('quota') ? 402 : 429
  if (name === 'bare' || limit === UNLIMITED) return [200]
  return by === 'edge' ? [200, denied] : [denied]
}

/** Of one pass, by contender; NaN where one of the two did not take part. */
const rates = (name, peer) => pass => pass[name]?.rate / pass[peer]?.rate
const slowest = (name, peer) => pass => pass[name]?.p99 / pass[peer]?.p99
export const addedTrips = name => pass => (pass[name]?.p50 - pass.bare?.p50) / pass[name]?.trip

export const BARS = [
  ['50 connections, 1 000 users: × flexible-postgres', 'uniform', rates('quota', 'flexible-postgres'), 1.4, 2.2],
  ['50 connections, 1 000 users: × check-update-insert', 'uniform', rates('quota', 'check-update-insert'), 7, 12],
  [
    '50 connections, 1 000 users: × drizzle-check-update-insert',
    'uniform',
    rates('quota', 'drizzle-check-update-insert'),
    7,
    12
  ],
  ['50 connections, 1 000 users: × bare', 'uniform', rates('quota', 'bare'), 0.2, 0.35],
  ['50 connections, one hot user: × flexible-postgres', 'hot', rates('quota', 'flexible-postgres'), 4.5, 8],
  ['200 connections, 1 000 users: × flexible-postgres', 'wide', rates('quota', 'flexible-postgres'), 2.5, 3.5],
  ['200 connections, 1 000 users: × bare', 'wide', rates('quota', 'bare'), 0.33, 0.5],
  ['quota-after-reply × quota', 'uniform', rates('quota-after-reply', 'quota'), 1.25, 1.6],
  ['every request denied: × bare', 'denied', rates('quota', 'bare'), 0.5, 0.8],
  ['a route that is not metered: × bare', 'unmetered', rates('unmetered', 'bare'), 0.95, 1],
  ['p99 at 50 connections: × flexible-postgres, at most', 'uniform', slowest('quota', 'flexible-postgres'), 1, 0.5],
  ['one request at a time: added, in round trips of SELECT 1, at most', 'single', addedTrips('quota'), 3, 2.2]
].map(([title, load, figureOf, floor, goal]) => ({ title, load, figureOf, floor, goal }))
