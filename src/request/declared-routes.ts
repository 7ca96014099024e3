// Every route of the application as it was declared, and whether a hook of ours stands before it.
import type { FastifyInstance } from 'fastify'

export interface DeclaredRoute {
  method: string
  /** Prefix included, parameters by name. */
  url: string
  /** Of the instance that it was declared on. */
  prefix: string
  /** The object that `request.routeOptions.config` will be. */
  config: { quota?: unknown }
  /** The names of its onRequest hooks. */
  hooks: readonly string[]
}

/** What find-my-way keeps of a route; `store` is Fastify's context. */
interface RouterEntry {
  method: string
  path: string
  store?: {
    config?: { quota?: unknown; url?: string }
    server?: { prefix: string }
    onRequest?: readonly { name: string }[] | null
  }
}

/**
 * Each once. Fastify has no list of its routes, and `onRoute` misses those declared before a plugin is loaded: all of them, when the
 * registration was not awaited. `printRoutes` visits every one and shows it to `buildPrettyMeta`, where we look on.
 * Complete once the application is ready.
 */
export function declaredRoutes(app: FastifyInstance): DeclaredRoute[] {
  const routes: DeclaredRoute[] = []
  const seen = new Map<object, Set<string>>()
  const look = ({ method, path, store }: RouterEntry) => {
    const { config } = store ?? {}
    if (config === undefined) return {}
    // The router's own path is another where a parameter may be left out, and there it has the route twice.
    const url = config.url ?? path
    const methods = seen.get(config) ?? new Set()
    seen.set(config, methods)
    // Fastify declares the `/` of a prefix a second time, with the slash, by the url of the first.
    if (methods.has(method) || path === `${url}/`) return {}
    methods.add(method)
    routes.push({
      method,
      url,
      prefix: store?.server?.prefix ?? '',
      config,
      hooks: (store?.onRequest ?? []).map(hook => hook.name)
    })
    return {}
  }
  const options = Object.defineProperty({ includeMeta: true }, 'buildPrettyMeta', { get: () => look, set: () => {} })
  app.printRoutes(options as { includeMeta: true })
  return routes
}
