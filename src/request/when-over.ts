// When a reply is over: sent, hijacked, torn, or never begun.
import type { FastifyReply } from 'fastify'

/** What a closed reply says of itself, over HTTP/1 and over HTTP/2. */
interface Closed {
  closed?: boolean
  stream?: { closed?: boolean }
}

/**
 * Calls back once. 'close' comes on every path, over HTTP/1, over HTTP/2 and in `inject`; `stream.finished` listens to five events more, for 3 µs a
 * request. An 'error', as after a write that comes too late, would end the process if nobody listened.
 */
export function whenOver(raw: FastifyReply['raw'], callback: () => void): void {
  let isOver = false
  const over = () => {
    if (isOver) return
    isOver = true
    callback()
  }
  const { closed, stream } = raw as Closed
  // Its client left while the store was asked: there will be no event any more.
  if (closed ?? stream?.closed) process.nextTick(over)
  else raw.on('close', over).on('error', over)
}
