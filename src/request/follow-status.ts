// The status that is really sent: a hook after ours may still change it, and so may the application's error handler.
import type { FastifyReply } from 'fastify'
import type { QuotaHeaders } from './headers.ts'
import type { Settlement } from './settle.ts'

type WriteHead = (...parts: unknown[]) => unknown

const FOLLOWED = Symbol('fastify-quota.followed')

/** A raw reply, with what its `writeHead` was: another plugin may have put its own there. */
interface Followed {
  [FOLLOWED]?: Following
  writeHead: WriteHead
}

class Following {
  settlement: Settlement
  readonly writeHead: WriteHead

  constructor(settlement: Settlement, writeHead: WriteHead) {
    this.settlement = settlement
    this.writeHead = writeHead
  }
}

/** The charge follows the status, and so must what the headers say: they are about to be sent. */
export function followStatus(settlement: Settlement, reply: FastifyReply): void {
  const raw = reply.raw as unknown as Followed
  const followed = raw[FOLLOWED]
  // Two registrations may both reach a scope that was opened between them; the headers are those of the last.
  if (followed !== undefined) {
    followed.settlement = settlement
    return
  }
  raw[FOLLOWED] = new Following(settlement, raw.writeHead)
  raw.writeHead = writeHeadFollowed
}

/** One for all replies: with one for each, V8 carried twice as much past its young collections. */
function writeHeadFollowed(this: Followed, ...parts: unknown[]): unknown {
  const { settlement, writeHead } = this[FOLLOWED] as Following
  const [statusCode, headers] = parts
  const cost = (headers as QuotaHeaders | undefined)?.['x-quota-cost']
  const isCharged = settlement.isCharged(statusCode as number)
  if (cost !== undefined && isCharged !== settlement.isSaidCharged)
    Object.assign(headers as QuotaHeaders, settlement.headers(isCharged ? 'charged' : 'released'))
  return writeHead.apply(this, parts)
}
