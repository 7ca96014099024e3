// An answer leaves as text written by its schema: what the application does to objects, such as an envelope around each, must not reach the
// operator's answers.
import type { FastifyReply, RouteHandlerMethod } from 'fastify'

const JSON_TYPE = 'application/json; charset=utf-8'

/** `preSerialization` hooks and a `setReplySerializer` of the application apply to this scope, too, but leave texts alone. */
export function answeringInText(handler: RouteHandlerMethod): RouteHandlerMethod {
  return async function (request, reply) {
    const document: unknown = await handler.call(this, request, reply)
    if (typeof document !== 'object' || document === null) return document
    return reply.type(JSON_TYPE).send(textOf(document, reply))
  }
}

function textOf(document: object, reply: FastifyReply): string {
  const status = String(reply.statusCode)
  // The first is for responses with several content types.
  const write =
    reply.getSerializationFunction(status, 'application/json') ??
    reply.getSerializationFunction(status) ??
    JSON.stringify
  return write(document as Record<string, unknown>)
}
