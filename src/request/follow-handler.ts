// The end of an `async` handler whose client has left: Fastify sends nothing where it returns nothing, so no hook tells of it.
import { isPromise } from 'node:util/types'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { RouteContext } from './declared-routes.ts'
import { settlementOf } from './guard.ts'
import type { Settlement } from './settle.ts'

const followed = new WeakSet<RouteContext>()

/** In the context, where it also reaches what was declared before the plugin was loaded; `onRoute` does not. */
export function followHandler(context: RouteContext): void {
  if (followed.has(context)) return
  followed.add(context)
  const { handler } = context
  function handle(this: unknown, request: FastifyRequest, reply: FastifyReply): unknown {
    const settlement = settlementOf(request)
    if (!settlement) return handler.call(this, request, reply)
    // biome-ignore lint/suspicious/noThenProperty: a reply has one.
    reply.then = thenFollowed
    const result = handler.call(this, request, reply)
    // Some queries run once more for each `then`, but no promise does.
    if (isPromise(result)) whenUnanswered(result, settlement, reply)
    return result
  }
  const { name, length } = handler
  context.handler = Object.defineProperties(handle, { name: { value: name }, length: { value: length } })
}

/** Sees the value before Fastify does. */
function whenUnanswered(result: Promise<unknown>, settlement: Settlement, reply: FastifyReply): void {
  result.then(
    value => {
      if (value !== undefined || settlement.isAwaited || reply.sent || isAnswered(reply.request)) return
      settlement.endUnanswered()
    },
    // Fastify answers it, whether the client is there or not.
    () => {}
  )
}

/** Whether Fastify answers a handler that has returned nothing: where the client seems to be there. */
const isAnswered = ({ raw, socket }: FastifyRequest): boolean =>
  raw.aborted === false && Boolean(socket) && !socket.destroyed

/** A handler that returns its reply answers later; but where the client leaves first, its promise resolves as if it had returned nothing. */
function thenFollowed(this: FastifyReply, ...given: Parameters<FastifyReply['then']>): void {
  const settlement = settlementOf(this.request)
  if (settlement) settlement.isAwaited = true
  Object.getPrototypeOf(this).then.apply(this, given)
}
