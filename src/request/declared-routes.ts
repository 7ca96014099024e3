// Every route of the application as it was declared, and the scope that it was declared in.
import type { FastifyInstance } from 'fastify'

/** A Fastify instance; it is the prototype of those below it. */
export type Scope = Pick<FastifyInstance, 'prefix'>

export interface DeclaredRoute {
  method: string
  /** Prefix included, parameters by name. */
  url: string
  scope: Scope
  /** The object that `request.routeOptions.config` will be. */
  config: { quota?: unknown }
}

/** What find-my-way keeps of a route; `store` is Fastify's context. */
interface RouterEntry {
  method: string
  path: string
  store?: {
    config?: { quota?: unknown; url?: string }
    server?: Scope
  }
}

/**
 * Each once. Fastify has no list of its routes, and `onRoute` misses those declared before a plugin is loaded: all of them, when the
 * registration was not awaited. `printRoutes` visits every one and passes it to `buildPrettyMeta`, which is ours here.
 * Complete once the application is ready.
 */
export function declaredRoutes(app: FastifyInstance): DeclaredRoute[] {
  const routes: DeclaredRoute[] = []
  const seen = new Map<object, Set<string>>()
  const look = ({ method, path, store }: RouterEntry) => {
    const { config, server: scope } = store ?? {}
    if (config === undefined || scope === undefined) return {}
    // The router's own path differs where a parameter may be left out, and it has such a route twice.
    const url = config.url ?? path
    const methods = seen.get(config) ?? new Set()
    seen.set(config, methods)
    // Fastify declares the `/` of a prefix a second time, with the slash, under the url of the first.
    if (methods.has(method) || path === `${url}/`) return {}
    methods.add(method)
    routes.push({ method, url, scope, config })
    return {}
  }
  const options = Object.defineProperty({ includeMeta: true }, 'buildPrettyMeta', { get: () => look, set: () => {} })
  app.printRoutes(options as { includeMeta: true })
  return routes
}
