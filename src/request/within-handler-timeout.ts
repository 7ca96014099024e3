// What a route's `handlerTimeout` leaves of the time that a reply may wait for its charge: it also counts what hooks take.
import type { FastifyReply } from 'fastify'
import type { Settlement } from './settle.ts'

/** Of a timeout, for the hooks after ours, and for Fastify's timer, which may be a little early. */
const KEPT = 0.1

/** Settles by this status, but resolves before Fastify would answer a timeout instead of the reply; the write goes on then. */
export function settleInTime(settlement: Settlement, status: number, reply: FastifyReply): Promise<void> {
  const settled = settlement.settle(status)
  const { handlerTimeout } = settlement
  // Where there is one, the signal is aborted once it is over, and when the client has left.
  if (handlerTimeout === 0 || reply.request.signal.aborted) return settled
  const leftMs = handlerTimeout * (1 - KEPT) - reply.elapsedTime
  return leftMs > 0 ? atMost(leftMs, settled) : Promise.resolve()
}

function atMost(ms: number, work: Promise<void>): Promise<void> {
  return new Promise(resolve => {
    const timer = setTimeout(resolve, ms)
    void work.then(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}
