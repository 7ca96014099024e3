// Who calls the API: the verified JWT's `sub`, or with ENABLE_AUTH=false what the header X-User-Id says.
import fastifyJwt from '@fastify/jwt'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { type Identify, identifyByJwt, identifyUser } from '../request/identify.ts'

const CALLER = Symbol('fastify-quota.caller')

export const callerOf = (request: FastifyRequest): string => (request as unknown as { [CALLER]: string })[CALLER]

/** Without a secret there are no tokens: the header is believed. */
export async function addIdentity(app: FastifyInstance, jwtSecret: string | undefined): Promise<Identify> {
  if (jwtSecret === undefined) return identifyByHeader
  await app.register(fastifyJwt, { secret: jwtSecret, sign: { algorithm: 'HS256' }, verify: { algorithms: ['HS256'] } })
  return identifyByJwt('jwtVerify')
}

/** In this scope every request must have a caller; `callerOf` tells who. */
export function requireCaller(scope: FastifyInstance, identify: Identify): void {
  scope.decorateRequest(CALLER, '')
  scope.addHook('onRequest', async request => {
    ;(request as unknown as { [CALLER]: string })[CALLER] = await identifyUser(request, identify)
  })
}

const identifyByHeader: Identify = request => {
  const user = request.headers['x-user-id']
  return typeof user === 'string' ? decode(user) : undefined
}

/** Node reads a header as Latin-1, and curl sends it in the terminal's encoding: read so, UTF-8 would name another user. */
function decode(header: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(header, 'latin1'))
  } catch {
    return header
  }
}
