// The life of a metered request: match, identify, reserve, answer, settle. The table of contents of this room.
import type { FastifyInstance, FastifyReply, FastifyRequest, HookHandlerDoneFunction } from 'fastify'
import type { DenialOptions, StoreFailure } from '../quota/denial.ts'
import { FST_QUOTA_STORE, FST_QUOTA_UNAUTHORIZED } from '../quota/errors.ts'
import { deniedEvent } from '../quota/events.ts'
import type { TypeCatalogue } from '../store/catalogue/type-catalogue.ts'
import type { Admitted, ChargeCost, WantedCharge } from '../store/charge/admit.ts'
import { chargeId } from '../store/charge/charge-id.ts'
import { costsOf } from './costs.ts'
import type { Recalled } from './denial-memory.ts'
import { followHandshake } from './follow-handshake.ts'
import { followStatus, isHeadSent, statusOf } from './follow-status.ts'
import { type Identify, identifyUser } from './identify.ts'
import { markGuarded, type RouteMatcher, type Tariff } from './match.ts'
import { onSend } from './on-send.ts'
import { keepTicksQuick } from './quick-ticks.ts'
import { deniedAnswer, refuseUnauthorized, refuseUnavailable, sendDenied } from './refuse.ts'
import { type RequestQuota, unenforcedQuota, unmeteredQuota } from './request-quota.ts'
import { Settlement } from './settle.ts'
import type { SettleContext } from './settle-context.ts'
import { isBodyUnread } from './unread-body.ts'
import { whenEnded, whenOver } from './when-over.ts'

export interface GuardContext extends SettleContext {
  matcher: RouteMatcher
  types: TypeCatalogue
  identify: Identify
  /** Whether a 401 asks for a bearer token. */
  asksForToken: boolean
  denial: DenialOptions | undefined
  /** How each quota type has its denials answered, by key. */
  denialOfType: ReadonlyMap<string, DenialOptions | undefined>
  storeFailure: StoreFailure
  settle: 'before-reply' | 'after-reply'
  leaseMs: number
}

const SETTLEMENT = Symbol('fastify-quota.settlement')
const QUOTA = Symbol('fastify-quota.quota')

/** Undefined in a scope that was opened before this plugin was registered: hooks and getters reach down into it, other decorators do not. */
interface Metered {
  [SETTLEMENT]: Settlement | null | undefined
  [QUOTA]: RequestQuota | null | undefined
}

/** Of a request that is metered and was admitted. */
export const settlementOf = (request: FastifyRequest): Settlement | null | undefined =>
  (request as unknown as Metered)[SETTLEMENT]

export function addGuard(app: FastifyInstance, context: GuardContext): void {
  keepTicksQuick()
  markGuarded(app, context.matcher)
  app.decorateRequest(SETTLEMENT, null)
  app.decorateRequest(QUOTA, null)
  app.decorateRequest('quota', { getter: readQuota })
  app.addHook('onRequest', (request, reply, done) => onRequest(context, request, reply, done))
  app.addHook('preValidation', (request, _reply, done) => {
    settlementOf(request)?.passBody()
    done()
  })
  app.addHook('onSend', (request, reply, payload, done) => {
    const settlement = settlementOf(request)
    const settled = settlement ? onSend(context.settle, settlement, reply, payload) : undefined
    if (settled === undefined) done()
    // Returned: what Fastify runs next may throw, which it catches where it waits for a promise.
    return settled
  })
}

function readQuota(this: FastifyRequest): RequestQuota {
  const metered = this as unknown as Metered
  metered[QUOTA] ??= unmeteredQuota()
  return metered[QUOTA]
}

/** The hooks take callbacks, so that there is no promise where nothing is metered or nothing need be waited for. */
function onRequest(
  context: GuardContext,
  request: FastifyRequest,
  reply: FastifyReply,
  done: HookHandlerDoneFunction
): void {
  // A new object each time it is read.
  const { config, url, handlerTimeout } = request.routeOptions
  // Without a url no route was found.
  const tariff =
    url === undefined ? undefined : context.matcher.match(config, request.method, url, request.server.prefix)
  if (tariff === undefined) done()
  else
    meter(context, tariff, request, reply, handlerTimeout).then(
      isAnswered => isAnswered || done(),
      // Without an error, `done` would let the request go on.
      error => done(error ?? new Error('identify or an amount function rejected without an error'))
    )
}

/** Reserves what the request costs, or answers it: then true. What is there at once is not awaited. */
async function meter(
  context: GuardContext,
  tariff: Tariff,
  request: FastifyRequest,
  reply: FastifyReply,
  handlerTimeout: number
): Promise<boolean> {
  let userId: string
  try {
    const named = identifyUser(request, context.identify)
    userId = typeof named === 'string' ? named : await named
  } catch (error) {
    if (!(error instanceof FST_QUOTA_UNAUTHORIZED)) throw error
    refuseUnauthorized(reply, error, context.asksForToken)
    return true
  }
  try {
    if (context.owed.isFull) throw new FST_QUOTA_STORE('too many charges are waiting to be written')
    const asked = costsOf(tariff.metering, request, context.types)
    const costs = asked instanceof Promise ? await asked : asked
    if (costs.length === 0) {
      ;(request as unknown as Metered)[QUOTA] = unenforcedQuota(userId)
      return false
    }
    const recalled = context.denials.recall(userId, costs)
    if (recalled !== undefined) return deny(context, tariff, userId, recalled, request, reply)
    const wanted = costs.map(cost => new Wanted(cost))
    const { changes } = context.denials
    const since = performance.now()
    const reserve = () => context.store.reserve(userId, wanted, context.leaseMs)
    const admission = await context.holds.reserve(userId, wanted, reserve)
    if (!admission.admitted) {
      const remembered = context.denials.remember(userId, costs, admission, changes, since)
      return deny(context, tariff, userId, remembered, request, reply)
    }
    hold(context, tariff, userId, admission, request, reply).handlerTimeout = handlerTimeout
    return false
  } catch (error) {
    if (!(error instanceof FST_QUOTA_STORE)) throw error
    return storeFailed(context, tariff, userId, error, request, reply)
  }
}

class Wanted implements WantedCharge {
  readonly id = chargeId()
  readonly typeId: number
  readonly type: string
  readonly amount: number

  constructor({ typeId, type, amount }: ChargeCost) {
    this.typeId = typeId
    this.type = type
    this.amount = amount
  }
}

function hold(
  context: GuardContext,
  tariff: Tariff,
  userId: string,
  admission: Admitted,
  request: FastifyRequest,
  reply: FastifyReply
): Settlement {
  const settlement = new Settlement(context, userId, tariff, admission, request.log)
  const metered = request as unknown as Metered
  metered[SETTLEMENT] = settlement
  // Set by what ran before: identify, an amount function, another hook.
  if (metered[QUOTA]) settlement.quota.metadata = metered[QUOTA].metadata
  metered[QUOTA] = settlement.quota
  followStatus(settlement, reply)
  const handshake = followHandshake(request, reply)
  whenOver(reply.raw, request.raw.socket, () => {
    if (isHeadSent(reply.raw)) settlement.settle(statusOf(reply.raw))
    // An upgraded connection, such as a WebSocket, has nothing but its handshake, and no handshake will come any more.
    else if (handshake !== undefined) {
      if (handshake.status === undefined) settlement.giveBack()
      else settlement.settle(handshake.status)
    } else {
      // A stream may have sent nothing yet, and Fastify destroys it only now.
      if (settlement.openStatus !== undefined) settlement.settle(settlement.openStatus)
      else settlement.abandon(isBodyUnread(request))
      whenEnded(reply.raw, () => settlement.settle(statusOf(reply.raw)))
    }
  })
  return settlement
}

function deny(
  context: GuardContext,
  tariff: Tariff,
  userId: string,
  { denial, answers }: Recalled,
  request: FastifyRequest,
  reply: FastifyReply
): true {
  let told = answers.get(tariff)
  if (told === undefined) {
    const ofType = context.denialOfType.get(denial.violations[0]?.type ?? '')
    const answer = deniedAnswer(denial, [tariff.metering.denial, ofType, context.denial])
    told = { answer, event: deniedEvent(userId, tariff.url, denial, answer.statusCode) }
    answers.set(tariff, told)
  }
  sendDenied(reply, told.answer)
  context.emit(told.event, request.log)
  return true
}

function storeFailed(
  context: GuardContext,
  { metering, url }: Tariff,
  userId: string,
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply
): boolean {
  // A user with so many requests that they wait behind each other must not be let through for it.
  const isOpen = !context.store.isCrowded(error) && (metering.storeFailure ?? context.storeFailure) === 'open'
  const common = { userId, endpoint: url, error }
  context.emit(isOpen ? { name: 'unenforced', ...common } : { name: 'store-failed', ...common }, request.log)
  if (isOpen) (request as unknown as Metered)[QUOTA] = unenforcedQuota(userId)
  else refuseUnavailable(reply)
  return !isOpen
}
