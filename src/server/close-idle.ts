// How a closing server lets go of its clients: as soon as each has had its answer.
import type { FastifyInstance } from 'fastify'

const EVERY_MS = 100

/** A keep-alive connection whose request was still running when the close began would hold the server for Node's 72 s. */
export function closeIdleConnections(app: FastifyInstance): void {
  let timer: NodeJS.Timeout | undefined
  app.addHook('preClose', async () => {
    timer = setInterval(() => app.server.closeIdleConnections(), EVERY_MS)
  })
  app.addHook('onClose', async () => clearInterval(timer))
}
