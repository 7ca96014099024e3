// Who may operate: a token in `X-Admin-Token`, or the application's own decision.
import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { FST_QUOTA_INVALID_OPTION } from '../quota/errors.ts'
import { refuseUnknown, requireObject } from '../quota/option.ts'

/** Returns the actor's name for the audit log; nothing (undefined, null, '') refuses with 403. */
export type Authorize = (request: FastifyRequest) => string | null | undefined | Promise<string | null | undefined>

export interface AdminOptions {
  /** At least 16 ASCII characters, with no space at either end; or several by name, which is the actor in the audit log. There is no default. */
  token?: string | Readonly<Record<string, string>>
  /** Where the routes are. Default: `/admin/quotas`. */
  prefix?: string
  /** Instead of a token: who is asking, by the application's own rules. */
  authorize?: Authorize
}

export const DEFAULT_ADMIN_PREFIX = '/admin/quotas'
export const MIN_TOKEN_LENGTH = 16
/** Tokens that arrive in a header as they were sent. */
const SENDABLE = /^[!-~](?:[ -~]*[!-~])?$/

export interface Authorization {
  authorize: Authorize
  /** Whether a request tries to prove who sent it; undefined where there are no tokens, and only the application can tell. */
  hasCredential(request: FastifyRequest): boolean | undefined
  /** What a refused client is told. */
  remedy: string
}

/** Reads the options, and refuses what would leave the routes open. */
export function readAdminOptions(options: AdminOptions): Authorization & { prefix: string } {
  requireObject('admin', options, "{ token: '…' }, or false for no admin routes")
  refuseUnknown('admin', options, ['token', 'prefix', 'authorize'])
  const { token, prefix = DEFAULT_ADMIN_PREFIX, authorize } = options
  if (typeof prefix !== 'string' || !/^\/[^*:]*[^/*:]$/.test(prefix))
    throw new FST_QUOTA_INVALID_OPTION('admin.prefix', 'must be a path such as /admin/quotas')
  if (authorize !== undefined && typeof authorize !== 'function')
    throw new FST_QUOTA_INVALID_OPTION('admin.authorize', 'must be a function (request) => actor')
  if (authorize !== undefined && token !== undefined)
    throw new FST_QUOTA_INVALID_OPTION('admin', 'takes token or authorize, not both')
  if (authorize !== undefined)
    return {
      prefix,
      authorize,
      hasCredential: () => undefined,
      remedy: 'The application does not allow this request to administer quotas.'
    }
  return {
    prefix,
    authorize: byToken(readTokens(token)),
    hasCredential: request => request.headers['x-admin-token'] !== undefined,
    remedy: 'This needs the header X-Admin-Token with a valid token.'
  }
}

function readTokens(token: AdminOptions['token']): { name: string; hash: Buffer }[] {
  if (token === undefined)
    throw new FST_QUOTA_INVALID_OPTION(
      'admin.token',
      `is missing; give a token of at least ${MIN_TOKEN_LENGTH} characters, an authorize function, or write admin: false`
    )
  const tokens = typeof token === 'string' ? { admin: token } : token
  requireObject('admin.token', tokens, "{ alice: '…', deploy: '…' }, or a string")
  const entries = Object.entries(tokens)
  if (entries.length === 0) throw new FST_QUOTA_INVALID_OPTION('admin.token', 'names no token')
  return entries.map(([name, value], i) => {
    const path = typeof token === 'string' ? 'admin.token' : `admin.token.${name}`
    if (!isActor(name))
      throw new FST_QUOTA_INVALID_OPTION('admin.token', 'has a name that is empty or has control characters')
    if (typeof value !== 'string' || value.length < MIN_TOKEN_LENGTH)
      throw new FST_QUOTA_INVALID_OPTION(
        path,
        `must have at least ${MIN_TOKEN_LENGTH} characters; openssl rand -base64 24 makes a good one`
      )
    if (!SENDABLE.test(value))
      throw new FST_QUOTA_INVALID_OPTION(
        path,
        'may have only ASCII characters, with no space or newline at either end (often left by a file it was read from): a header cannot carry them'
      )
    const other = entries.slice(0, i).find(([, earlier]) => earlier === value)
    if (other !== undefined)
      throw new FST_QUOTA_INVALID_OPTION(
        path,
        `is also the token of '${other[0]}', and would always be taken for theirs`
      )
    return { name, hash: hashOf(value) }
  })
}

/** What the audit log can keep. */
export const isActor = (name: unknown): name is string =>
  typeof name === 'string' && name !== '' && !/\p{Cc}/u.test(name)

/** Hashes have the same length, so comparing them takes the same time; every token is compared, so their order reveals nothing. */
const byToken =
  (tokens: readonly { name: string; hash: Buffer }[]): Authorize =>
  request => {
    const given = request.headers['x-admin-token']
    const hash = hashOf(typeof given === 'string' ? given : '')
    return tokens.filter(token => timingSafeEqual(token.hash, hash))[0]?.name
  }

const hashOf = (text: string): Buffer => createHash('sha256').update(text).digest()
