// Node makes an object for each `process.nextTick`, and several of those for a request.
import { executionAsyncResource } from 'node:async_hooks'

let kept: object | undefined

/**
 * Keeps one of these objects. Where a full collection finds none, V8 (11.3, Node 20) forgets their shape, and from then on makes them by a slow call of its
 * runtime: 2 to 4 µs a request, metered or not, and a fifth of what a route takes that does nothing. Bare Fastify rarely meets such a collection.
 */
export function keepTicksQuick(): void {
  if (kept !== undefined) return
  process.nextTick(() => {
    kept = executionAsyncResource()
  })
}
