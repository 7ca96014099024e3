// Who is asking: the verified JWT's `sub`, or what the application's own function says.
import type { FastifyRequest } from 'fastify'
import { FST_QUOTA_UNAUTHORIZED } from '../quota/errors.ts'
import { isUserId } from '../quota/user-id.ts'

/** A list counts as nobody: it is here because Node types a header that way. */
type Identity = string | readonly string[] | null | undefined

/**
 * The id of the user who is charged: 1–255 characters, no control characters. Nothing (null, undefined, '') is answered with 401, and so is
 * a list; an error it throws goes to the application's error handler, with its own status code.
 */
export type Identify = (request: FastifyRequest) => Identity | Promise<Identity>

/** For a text that signs tokens. */
export const MIN_SECRET_LENGTH = 32

/** The default. `jwtVerify` is the method that @fastify/jwt decorates requests with. */
export const identifyByJwt =
  (jwtVerify: string): Identify =>
  async request => {
    const verify = (request as unknown as Record<string, () => Promise<{ sub?: unknown }>>)[
      jwtVerify
    ] as () => Promise<{ sub?: unknown }>
    try {
      const claims = await verify.call(request)
      return isUserId(claims.sub) ? claims.sub : undefined
    } catch (error) {
      throw isTokenError(error) ? new FST_QUOTA_UNAUTHORIZED(tokenReason(error)) : error
    }
  }

/** Throws, or rejects with, FST_QUOTA_UNAUTHORIZED where there is no identity that could be charged. Not a promise where nothing must be asked. */
export function identifyUser(request: FastifyRequest, identify: Identify): string | Promise<string> {
  const named = identify(request)
  return named === null || typeof named !== 'object' ? requireUser(named) : Promise.resolve(named).then(requireUser)
}

function requireUser(userId: unknown): string {
  if (!isUserId(userId)) throw new FST_QUOTA_UNAUTHORIZED('the request does not name a user to charge')
  return userId
}

interface TokenError {
  code: string
  message: string
}

/** @fastify/jwt says 400 for a malformed header and 401 for the rest; a failing key store is neither. */
function isTokenError(error: unknown): error is TokenError {
  const code = (error as { code?: unknown }).code
  return typeof code === 'string' && /^(FST_JWT_|FAST_JWT_)/.test(code)
}

const tokenReason = ({ code }: TokenError): string =>
  /NO_AUTHORIZATION/.test(code)
    ? 'there is no bearer token'
    : /EXPIRED/.test(code)
      ? 'the bearer token has expired'
      : 'the bearer token is not valid'
