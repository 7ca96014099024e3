// The status that is really sent: a hook after ours may still change it, and so may the application's error handler.
import type { FastifyReply } from 'fastify'
import type { QuotaHeaders } from './headers.ts'
import type { Settlement } from './settle.ts'

type WriteHead = (...parts: unknown[]) => unknown

export type FollowStatus = (settlement: Settlement, reply: FastifyReply) => void

/**
 * The charge follows the status, and so must what the headers say: they are about to be sent. One function for all replies of a registration: with
 * one for each, V8 carried twice as much past its young collections. Of a registration's own, since another may follow the same reply.
 */
export function statusFollower(): FollowStatus {
  const followed = Symbol('fastify-quota.followed')
  interface Followed {
    [followed]: { settlement: Settlement; writeHead: WriteHead }
    writeHead: WriteHead
  }

  function writeHead(this: Followed, ...parts: unknown[]): unknown {
    const { settlement, writeHead } = this[followed]
    const [statusCode, headers] = parts
    const cost = (headers as QuotaHeaders | undefined)?.['x-quota-cost']
    const isCharged = settlement.isCharged(statusCode as number)
    if (cost !== undefined && isCharged !== settlement.isSaidCharged)
      Object.assign(headers as QuotaHeaders, settlement.headers(isCharged ? 'charged' : 'released'))
    return writeHead.apply(this, parts)
  }

  return (settlement, reply) => {
    const raw = reply.raw as unknown as Followed
    raw[followed] = { settlement, writeHead: raw.writeHead }
    raw.writeHead = writeHead
  }
}
