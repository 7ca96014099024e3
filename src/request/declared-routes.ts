// Every route of the application as it was declared, and the scope that it was declared in.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

/** A Fastify instance; it is the prototype of those below it. */
export type Scope = Pick<FastifyInstance, 'prefix'>

/** What Fastify keeps of a route, and serves it with. */
export interface RouteContext {
  handler: (request: FastifyRequest, reply: FastifyReply) => unknown
}

export interface DeclaredRoute {
  method: string
  /** Prefix included, parameters by name. */
  url: string
  scope: Scope
  /** The object that `request.routeOptions.config` will be. */
  config: { quota?: unknown }
  context: RouteContext
  /** The `/` of a prefix, which Fastify declares a second time, with the slash, under the url of the first. */
  isRepeated: boolean
}

/** What find-my-way keeps of a route; `store` is Fastify's context. */
interface RouterEntry {
  method: string
  path: string
  store?: RouteContext & {
    config?: { quota?: unknown; url?: string }
    server?: Scope
  }
}

/**
 * Each context once a method. Fastify has no list of its routes, and `onRoute` misses those declared before a plugin is loaded: all of them,
 * when the registration was not awaited. `printRoutes` visits every one and passes it to `buildPrettyMeta`, which is ours here.
 * Complete once the application is ready.
 */
export function declaredRoutes(app: FastifyInstance): DeclaredRoute[] {
  const routes: DeclaredRoute[] = []
  const seen = new Map<object, Set<string>>()
  const look = ({ method, path, store }: RouterEntry) => {
    const { config, server: scope } = store ?? {}
    if (store === undefined || config === undefined || scope === undefined) return {}
    // The router's own path differs where a parameter may be left out, and it has such a route twice.
    const url = config.url ?? path
    const methods = seen.get(config) ?? new Set()
    seen.set(config, methods)
    if (methods.has(method)) return {}
    methods.add(method)
    routes.push({ method, url, scope, config, context: store, isRepeated: path === `${url}/` })
    return {}
  }
  const options = Object.defineProperty({ includeMeta: true }, 'buildPrettyMeta', { get: () => look, set: () => {} })
  app.printRoutes(options as { includeMeta: true })
  return routes
}
