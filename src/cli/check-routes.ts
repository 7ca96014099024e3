// Which route is metered by what, and which may have been forgotten.
import type { FastifyInstance } from 'fastify'
import type { MeteredRoute } from '../request/match.ts'
import { type Finding, hint, ok, wrong } from './finding.ts'
import { table } from './table.ts'

/** Reading is often free; what changes something rarely is. */
const CHANGING = ['POST', 'PUT', 'PATCH', 'DELETE']

export interface RouteCheck {
  findings: Finding[]
  /** The table; empty where there is nothing to show. */
  table: string
}

export async function checkRoutes(app: FastifyInstance): Promise<RouteCheck> {
  await app.ready()
  if (!app.hasDecorator('quota')) {
    const remedy = 'register it on this instance; if a plugin of yours registers it, wrap that plugin in fastify-plugin'
    return {
      findings: [wrong('routes', 'the application has no app.quota: fastify-quota is not registered', remedy)],
      table: ''
    }
  }
  const routes = app.quota.routes().filter((route, _, all) => !isImpliedHead(route, all))
  const metered = routes.filter(route => route.metering !== undefined)
  const forgotten = routes.filter(r => CHANGING.includes(r.method) && r.metering === undefined && !r.isExempt)
  return { findings: [summary(metered.length, routes.length), ...forgotten.map(flag)], table: describe(routes) }
}

function summary(metered: number, all: number): Finding {
  if (metered > 0) return ok('routes', `${metered} of ${all} are metered`)
  return wrong('routes', `none of ${all} is metered`, 'add a rule under the option `rules`, or config.quota on a route')
}

const flag = ({ method, url }: MeteredRoute): Finding =>
  hint('routes', `${method} ${url} is not metered`, 'write config: { quota: false } on it if that is intended')

/** Fastify adds it to every GET, and it is charged as its GET. */
const isImpliedHead = ({ method, url }: MeteredRoute, all: readonly MeteredRoute[]): boolean =>
  method === 'HEAD' && all.some(other => other.method === 'GET' && (other.url === url || `${other.url}/` === url))

function describe(routes: readonly MeteredRoute[]): string {
  const rows = routes.map(({ method, url, metering, isExempt }) => [
    method,
    url,
    metering?.charges
      .map(({ type, amount }) => `${type} ${typeof amount === 'number' ? `× ${amount}` : '× amount()'}`)
      .join(', ') ?? (isExempt ? 'exempt' : '–'),
    metering?.source.startsWith('rules') ? metering.source : metering === undefined ? '' : 'config.quota'
  ])
  return table([['METHOD', 'ROUTE', 'CHARGES', 'BY'], ...rows])
}
