// Whether the body of a request had been read when its client left.
import type { FastifyRequest } from 'fastify'

/** Fastify does not read a body for these. */
const WITHOUT_BODY = ['GET', 'HEAD', 'TRACE']

/**
 * A request with an unread body is never handled: Fastify waits in vain for the end of what Node has thrown away with the connection, even where
 * all of it had arrived (`complete`, which over HTTP/2 says so in any case).
 */
export const isBodyUnread = ({ raw, body, method, headers }: FastifyRequest): boolean =>
  raw.complete === false ||
  (body === undefined && !raw.readableEnded && !WITHOUT_BODY.includes(method) && announcesBody(headers))

/** How Fastify tells whether there is something to parse. */
const announcesBody = (headers: FastifyRequest['headers']): boolean =>
  headers['content-type'] !== undefined ||
  headers['transfer-encoding'] !== undefined ||
  (headers['content-length'] ?? '0') !== '0'
