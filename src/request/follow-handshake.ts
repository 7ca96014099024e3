// What an upgraded connection was answered: on its socket, bypassing the reply.
import type { FastifyReply, FastifyRequest } from 'fastify'

/** Undefined: nothing was written, or it was ended at once, like a handshake that nobody takes. */
export interface Handshake {
  status: number | undefined
}

/** Undefined where it is no upgrade. A WebSocket that a test injects has no parser that would say so, only its header does. */
export function followHandshake(request: FastifyRequest, reply: FastifyReply): Handshake | undefined {
  const { upgrade } = request.raw as { upgrade?: boolean }
  const { socket } = reply.raw
  if (socket === null || !(upgrade ?? request.headers.upgrade !== undefined)) return undefined
  const handshake: Handshake = { status: undefined }
  const { write } = socket
  socket.write = function (this: typeof socket, ...given: unknown[]) {
    socket.write = write
    handshake.status = statusIn(given[0])
    return write.apply(this, given as never)
  } as typeof write
  return handshake
}

const statusIn = (chunk: unknown): number | undefined => {
  const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(String(chunk)) ?? []
  return status === undefined ? undefined : Number(status)
}
