// How the server answers what Node's HTTP parser refuses: there is no request yet, only a socket.
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { ConnectionError, FastifyInstance } from 'fastify'
import { PROBLEM_JSON, problem } from '../quota/problem.ts'

/** As Fastify's own handler does, but for the body, which is JSON of another form there. */
export function answerClientError(this: FastifyInstance, error: ConnectionError, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return
  this.log.trace({ err: error }, 'client error')
  if (socket.writable) socket.write(answerTo(error))
  socket.destroy(error)
}

function answerTo(error: ConnectionError): string {
  const [status, detail] = describe(error)
  const body = JSON.stringify(problem(status, error.code, detail))
  const headers = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    `Content-Type: ${PROBLEM_JSON}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Cache-Control: no-store',
    'Connection: close'
  ]
  return `${headers.join('\r\n')}\r\n\r\n${body}`
}

function describe({ code, message }: ConnectionError): [status: number, detail: string] {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return [408, 'The request did not arrive in time; send it again.']
  if (code === 'HPE_HEADER_OVERFLOW') return [431, 'The headers are too long; shorten them.']
  return [400, `The request is not valid HTTP. ${message}.`]
}
