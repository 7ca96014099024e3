// Opens the socket of a connection to a server.
import { Socket } from 'node:net'

/** What postgres.js has made of its options. */
interface Target {
  host: readonly string[]
  port: readonly number[]
  path?: string | false
}

/**
 * A proxy whose server is gone accepts each connection and closes it without a word. postgres.js (3.4.9) takes that for no error: it
 * retries at once and without end, and fails no statement. So it is turned into one.
 */
export function dial({ host: [host], port: [port], path }: Target): Socket {
  const socket = new Socket()
  socket.once('end', () => {
    if (socket.bytesRead === 0) socket.destroy(refused())
  })
  if (path) return socket.connect(path)
  // TLS asks for the name.
  return Object.assign(socket.connect(port as number, host as string), { host, port })
}

const refused = () =>
  Object.assign(new Error('the connection was closed before the server said anything'), { code: 'ECONNREFUSED' })
