// An answer leaves as text that its schema has written: what the application makes of objects, as an envelope around each, is not for the operator's.
import type { FastifyReply, RouteHandlerMethod } from 'fastify'

const JSON_TYPE = 'application/json; charset=utf-8'

/** `preSerialization` hooks and a `setReplySerializer` of the application reach this scope, too, and leave texts alone. */
export function answeringInText(handler: RouteHandlerMethod): RouteHandlerMethod {
  return async function (request, reply) {
    const document: unknown = await handler.call(this, request, reply)
    if (typeof document !== 'object' || document === null) return document
    return reply.type(JSON_TYPE).send(textOf(document, reply))
  }
}

function textOf(document: object, reply: FastifyReply): string {
  const status = String(reply.statusCode)
  // The one is for what has several content types.
  const write =
    reply.getSerializationFunction(status, 'application/json') ??
    reply.getSerializationFunction(status) ??
    JSON.stringify
  return write(document as Record<string, unknown>)
}
