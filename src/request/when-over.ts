// When a reply is over: sent, hijacked, torn, or never begun.
import type { Socket } from 'node:net'
import type { FastifyReply } from 'fastify'

/** What a closed reply says of itself, over HTTP/1 and over HTTP/2. */
interface Closed {
  closed?: boolean
  stream?: { closed: boolean }
}

/**
 * Calls back once. 'close' comes on every path, over HTTP/1, over HTTP/2 and in `inject`; `stream.finished` listens to five more events, for 3 µs a
 * request. An 'error', as after a write that comes too late, would end the process if nobody listened.
 */
export function whenOver(raw: FastifyReply['raw'], socket: Socket | undefined, callback: () => void): void {
  let isOver = false
  const over = () => {
    if (isOver) return
    isOver = true
    callback()
  }
  const { closed, stream } = raw as Closed
  // Behind a pipelined request, Node has not given the reply its socket yet, and does not tell it when that socket dies.
  const isQueued = raw.socket === null && socket !== undefined
  // The client left, or the request was answered, while the store was asked: no event will come any more.
  if ((closed ?? stream?.closed) || raw.writableFinished || (isQueued && socket.destroyed)) process.nextTick(over)
  else {
    raw.on('close', over).on('error', over)
    if (isQueued) {
      const leave = whenDead(socket, over)
      raw.on('close', leave)
    }
  }
}

/** What waits for a socket's end: one listener per socket, however many requests are queued on it. */
const waiting = new WeakMap<Socket, Set<() => void>>()

/** Returns a function that ends the waiting. */
function whenDead(socket: Socket, callback: () => void): () => void {
  let callbacks = waiting.get(socket)
  if (callbacks === undefined) {
    callbacks = new Set()
    waiting.set(socket, callbacks)
    const all = callbacks
    socket.once('close', () => {
      for (const each of all) each()
    })
  }
  const queued = callbacks.add(callback)
  return () => queued.delete(callback)
}

/** The end of the reply waits until `work` is done; what is written before it is not held up. */
export function holdEnd(raw: FastifyReply['raw'], work: () => Promise<void>): void {
  const { end } = raw
  raw.end = function (this: typeof raw, ...given: unknown[]) {
    void work().then(() => end.apply(this, given as never))
    return this
  } as typeof end
}

/** A client's departure is reported once, and a hijacked reply that is answered after that fires no event: its end is seen here. */
export function whenEnded(raw: FastifyReply['raw'], callback: () => void): void {
  const { end } = raw
  raw.end = function (this: typeof raw, ...given: unknown[]) {
    const ended = end.apply(this, given as never)
    callback()
    return ended
  } as typeof end
}
