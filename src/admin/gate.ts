// Who gets in: every request below the prefix is asked for its actor, and wrong tokens are slowed down.
import rateLimit from '@fastify/rate-limit'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { FST_QUOTA_FORBIDDEN, FST_QUOTA_TOO_MANY_ATTEMPTS } from '../quota/errors.ts'
import { answerError } from './answer-error.ts'
import { type Authorization, isActor } from './authorize.ts'
import { ACTOR } from './context.ts'

/** Wrong tokens that one address may try in a minute; further ones are answered 429. A right one always gets in. */
const MAX_WRONG_TOKENS = 100
const WINDOW_MS = 60_000

export async function addGate(
  admin: FastifyInstance,
  { authorize, hasCredential, remedy }: Authorization
): Promise<void> {
  await admin.register(rateLimit, { global: false })
  const countWrong = admin.createRateLimit({
    max: MAX_WRONG_TOKENS,
    timeWindow: WINDOW_MS,
    // Where the application limits rates as well, its limiter counts these, apart from its own; whom it exempts is not exempt here.
    keyGenerator: request => `quota-admin ${request.ip}`,
    allowList: []
  })
  const health = `${admin.prefix}/health`
  admin.decorateRequest(ACTOR, '')

  admin.addHook('onRequest', async (request, reply) => {
    reply.header('cache-control', 'no-store')
    const actor = await authorize(request)
    if (isActor(actor)) {
      ;(request as unknown as { [ACTOR]: string })[ACTOR] = actor
      return
    }
    const tried = hasCredential(request)
    // By the declared route, so that no spelling of a path gets more than the bare status.
    if (tried !== true && request.routeOptions.url === health) return
    return await refuse(request, reply, tried !== false)
  })

  async function refuse(request: FastifyRequest, reply: FastifyReply, isCounted: boolean): Promise<FastifyReply> {
    const wrong = isCounted ? await countWrong(request) : undefined
    if (wrong?.isAllowed === false && wrong.isExceeded) {
      reply.header('retry-after', wrong.ttlInSeconds)
      return answerError(new FST_QUOTA_TOO_MANY_ATTEMPTS(), request, reply)
    }
    const isLast = wrong?.isAllowed === false && wrong.remaining === 0
    // A client without a token tries none, and may come as often as it likes.
    request.log[isCounted ? 'warn' : 'info'](
      { endpoint: request.routeOptions.url, ip: request.ip, ...(isLast ? { slowed: true } : {}) },
      'quota admin request refused'
    )
    return answerError(new FST_QUOTA_FORBIDDEN(remedy), request, reply)
  }
}
