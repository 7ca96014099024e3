// How a closing server lets go of its clients: as soon as each has had its answer, or owes the rest of its request and keeps silent.
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

const EVERY_MS = 100
/** An upload whose next bytes come later is taken for dead. Node's own deadlines, for headers and for the whole request, end when a close begins. */
const SILENT_FOR_MS = 5_000

interface Client {
  request?: IncomingMessage
  response?: ServerResponse
  bytesRead: number
  heardAt: number
}

/** A keep-alive connection whose request was still running when the close began would hold the server for Node's 72 s. */
export function closeIdleConnections(app: FastifyInstance): void {
  const clients = new Map<Socket, Client>()
  app.server.on('connection', (socket: Socket) => {
    clients.set(socket, { bytesRead: 0, heardAt: 0 })
    socket.once('close', () => clients.delete(socket))
  })
  app.server.on('request', (request: IncomingMessage, response: ServerResponse) =>
    Object.assign(clients.get(request.socket) ?? {}, { request, response })
  )
  let timer: NodeJS.Timeout | undefined
  app.addHook('preClose', async () => {
    for (const client of clients.values()) client.heardAt = performance.now()
    timer = setInterval(() => {
      app.server.closeIdleConnections()
      for (const [socket, client] of clients) if (isDead(socket, client)) socket.destroy()
    }, EVERY_MS)
  })
  app.addHook('onClose', async () => clearInterval(timer))
}

/** Whether a client that owes the rest of a request has sent nothing for that long. */
function isDead(socket: Socket, client: Client): boolean {
  const isAnswering = client.request?.complete && !client.response?.writableFinished
  if (isAnswering || socket.bytesRead !== client.bytesRead) {
    client.bytesRead = socket.bytesRead
    client.heardAt = performance.now()
  }
  return performance.now() - client.heardAt > SILENT_FOR_MS
}
