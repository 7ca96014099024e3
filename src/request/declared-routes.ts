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
 * Fastify has no list of its routes, and `onRoute` misses those declared before a plugin is loaded: all of them, when the
 * registration was not awaited. `printRoutes` visits every one and shows it to `buildPrettyMeta`, where we look on.
 * Complete once the application is ready.
 */
export function declaredRoutes(app: FastifyInstance): DeclaredRoute[] {
  const routes: DeclaredRoute[] = []
  const look = ({ method, path, store }: RouterEntry) => {
    if (store?.config)
      routes.push({
        method,
        // The router's own path is another where a parameter may be left out.
        url: store.config.url ?? path,
        prefix: store.server?.prefix ?? '',
        config: store.config,
        hooks: (store.onRequest ?? []).map(hook => hook.name)
      })
    return {}
  }
  const options = Object.defineProperty({ includeMeta: true }, 'buildPrettyMeta', { get: () => look, set: () => {} })
  app.printRoutes(options as { includeMeta: true })
  return routes
}
