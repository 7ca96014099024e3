// A reply passes onSend: it is charged or given back, or will be once it is over, and its headers say so.
import type { FastifyReply } from 'fastify'
import { statusOf } from './follow-status.ts'
import { SOMETIMES_SAID } from './headers.ts'
import type { Settlement } from './settle.ts'
import { holdEnd } from './when-over.ts'
import { settleInTime } from './within-handler-timeout.ts'

/** Undefined where the reply need not wait. */
export function onSend(
  settle: 'before-reply' | 'after-reply',
  settlement: Settlement,
  reply: FastifyReply,
  payload: unknown
): Promise<void> | undefined {
  const status = isResponse(payload) ? payload.status : reply.statusCode
  const isCharged = settlement.isCharged(status)
  const say = () => {
    const said = settlement.headers(isCharged ? 'charged' : 'released')
    for (const name of SOMETIMES_SAID) if (said[name] === undefined) reply.removeHeader(name)
    settlement.isSaidCharged = isCharged
    // A Response's own headers, perhaps another service's, are applied after this hook.
    settlement.saidAgain = isResponse(payload) ? said : undefined
    reply.headers(said)
  }
  // A stream's cost is known when it ends, and a Response's status is applied after this hook: both settle when the reply is over.
  settlement.isStreamed = isStream(payload)
  const isOpenEnded = settlement.isStreamed || (isCharged && settle === 'after-reply')
  settlement.openStatus = isOpenEnded ? status : undefined
  if (!isOpenEnded || settlement.isAbandoned) return settleInTime(settlement, status, reply).then(say)
  // A handler that returns a Response does not always mean a stream: at least its last byte waits until the charge is written.
  if (isResponse(payload) && settle === 'before-reply')
    holdEnd(reply.raw, () => settleInTime(settlement, statusOf(reply.raw), reply))
  say()
  return undefined
}

/** Told apart as Fastify does it: another library's Response or ReadableStream is no instance of Node's own. */
const isResponse = (payload: unknown): payload is Response =>
  typeof payload === 'object' && payload !== null && Object.prototype.toString.call(payload) === '[object Response]'

const isStream = (payload: unknown): boolean =>
  typeof payload === 'object' &&
  payload !== null &&
  (isResponse(payload)
    ? payload.body !== null
    : typeof (payload as { pipe?: unknown }).pipe === 'function' ||
      typeof (payload as { getReader?: unknown }).getReader === 'function')
