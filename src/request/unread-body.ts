// Whether the body of a request whose client has left was read before that.
import type { FastifyRequest } from 'fastify'

/** Fastify reads none of theirs. */
const WITHOUT_BODY = ['GET', 'HEAD', 'TRACE']

/**
 * Then it is never handled: Fastify waits in vain for the end of what Node has thrown away with the connection, also where all of it had come
 * (`complete`, which over HTTP/2 says so in any case).
 */
export const isBodyUnread = ({ raw, body, method, headers }: FastifyRequest): boolean =>
  raw.complete === false ||
  (body === undefined && !raw.readableEnded && !WITHOUT_BODY.includes(method) && announcesBody(headers))

/** As Fastify tells whether there is something to parse. */
const announcesBody = (headers: FastifyRequest['headers']): boolean =>
  headers['content-type'] !== undefined ||
  headers['transfer-encoding'] !== undefined ||
  (headers['content-length'] ?? '0') !== '0'
