// The status that is really sent: a hook after ours may still change it, and so may the application's error handler.
import type { FastifyReply } from 'fastify'
import { type QuotaHeaders, SOMETIMES_SAID } from './headers.ts'
import type { Settlement } from './settle.ts'

type WriteHead = (...parts: unknown[]) => unknown

const FOLLOWED = Symbol('fastify-quota.followed')

/** A raw reply, with the `writeHead` that it had: that may be another plugin's. */
interface Followed {
  [FOLLOWED]?: Following
  writeHead: WriteHead
  setHeader(name: string, value: string | number): unknown
  removeHeader(name: string): void
}

class Following {
  settlement: Settlement
  /** What the client was told; `statusCode` may be set afterwards, but then means nothing. */
  sent: number | undefined
  readonly writeHead: WriteHead

  constructor(settlement: Settlement, writeHead: WriteHead) {
    this.settlement = settlement
    this.writeHead = writeHead
  }
}

/** The charge follows the status, and so must the headers, which are about to be sent. */
export function followStatus(settlement: Settlement, reply: FastifyReply): void {
  const raw = reply.raw as unknown as Followed
  const followed = raw[FOLLOWED]
  // A hijacked request may be routed once more, with the same raw reply; the headers are those of the last route.
  if (followed !== undefined) {
    followed.settlement = settlement
    return
  }
  raw[FOLLOWED] = new Following(settlement, raw.writeHead)
  raw.writeHead = writeHeadFollowed
}

/** @fastify/express has a `headersSent` of its own, which says no. */
export const isHeadSent = (raw: FastifyReply['raw']): boolean =>
  (raw as unknown as Followed)[FOLLOWED]?.sent !== undefined || raw.headersSent

/** What the client was told, or would be told as things are now. A hijacked reply may be answered on its HTTP/2 stream. */
export function statusOf(raw: FastifyReply['raw']): number {
  const { sent } = (raw as unknown as Followed)[FOLLOWED] ?? {}
  const { stream, statusCode } = raw as { stream?: { sentHeaders?: { ':status'?: number } }; statusCode: number }
  return sent ?? stream?.sentHeaders?.[':status'] ?? statusCode
}

/** One function for all replies: with one for each, twice as much survived V8's young collections. */
function writeHeadFollowed(this: Followed, ...parts: unknown[]): unknown {
  const following = this[FOLLOWED] as Following
  const { settlement, writeHead } = following
  const statusCode = parts[0] as number
  const isCharged = settlement.isCharged(statusCode)
  const said =
    isCharged === settlement.isSaidCharged
      ? settlement.saidAgain
      : settlement.headers(isCharged ? 'charged' : 'released')
  if (said !== undefined) {
    const given = parts.at(-1) as QuotaHeaders | undefined
    // A reply passes its headers here; a stream's were set before, and one that was hijacked, or failed once more, has none.
    if (given?.['x-quota-cost'] !== undefined) {
      for (const name of SOMETIMES_SAID) delete given[name]
      Object.assign(given, said)
    } else {
      for (const name of SOMETIMES_SAID) this.removeHeader(name)
      for (const name in said) this.setHeader(name, said[name] as string | number)
    }
  }
  try {
    const written = writeHead.apply(this, parts)
    following.sent = statusCode
    return written
  } catch (error) {
    // Where Node refuses a header, Fastify writes the head again, in the end without any.
    settlement.isSaidCharged = undefined
    throw error
  }
}
