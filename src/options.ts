// Every option of the registration, composed of what each room takes, and checked once, at boot.
import type { FastifyJWTOptions } from '@fastify/jwt'
import type { FastifyRequest } from 'fastify'
import { type AdminOptions, readAdminOptions } from './admin/authorize.ts'
import { checkDenial, checkStoreFailure, type DenialOptions, type StoreFailure } from './quota/denial.ts'
import { FST_QUOTA_INVALID_OPTION } from './quota/errors.ts'
import { refuseUnknown, requireObject } from './quota/option.ts'
import { type QuotaDeclaration, readDeclaration } from './quota/quota-type.ts'
import type { Rule } from './quota/rule.ts'
import { type Identify, MIN_SECRET_LENGTH } from './request/identify.ts'
import { RouteMatcher } from './request/match.ts'
import { DEFAULT_SELF_URL, type SelfOptions } from './request/self.ts'
import type { Spell } from './request/spelling.ts'
import type { Connection } from './store/connection/connect.ts'
import { DEFAULT_STORE_TIMEOUT_MS } from './store/connection/connect-server.ts'
import { type RetentionOptions, readRetention } from './upkeep/retention.ts'

export interface QuotaOptions {
  /**
   * Where quotas are kept: a `postgres://` URL, `{ url, …options of postgres.js }`, `{ dataDir }` (embedded, one process), or your
   * own Drizzle database. Default: the environment's `DATABASE_URL`, else embedded in `./.fastify-quota`.
   */
  connection?: Connection | undefined
  /**
   * The quota types, by key. A type is inserted when it is new; afterwards a field is written only when its declaration changes, so an
   * operator's change survives a restart. Types may also exist in the table alone.
   */
  quotas?: Readonly<Record<string, QuotaDeclaration>> | undefined
  /** What routes cost, by their declared URL. A route's own `config.quota` wins; among rules, the most specific one. */
  rules?: readonly Rule<FastifyRequest>[] | undefined
  /** Who is charged. Default: the `sub` of the verified JWT. Runs in `onRequest`: what it reads must have been set before. */
  identify?: Identify | undefined
  /**
   * Options for @fastify/jwt, which is then registered here. A text `secret` must have at least 32 characters, and pins HS256 unless
   * `verify.algorithms` says otherwise; with any other key, a PEM text included, `verify.algorithms` is required. Not needed where the
   * application has already registered @fastify/jwt.
   */
  jwt?: FastifyJWTOptions | undefined
  /** The operator's routes; they exist only with a token or an `authorize`. `false`, or left out: none. */
  admin?: AdminOptions | false | undefined
  /** The users' own view of their balances. Default: `{ url: '/quotas/me' }`; `false`: none. */
  self?: SelfOptions | false | undefined
  /** How a denial is answered. Default: 402 and `/subscription`. A quota type, a rule or a route may say otherwise. */
  denial?: DenialOptions | undefined
  /** When the store cannot be reached: `closed` (default) answers 503, `open` lets the request through unmetered, logged as an error. */
  storeFailure?: StoreFailure | undefined
  /**
   * `before-reply` (default): the log row is written before a reply leaves, before the end of a web `Response`, and once a stream has ended.
   * `after-reply`: right after the reply. The deduction itself always comes before the handler.
   */
  settle?: 'before-reply' | 'after-reply' | undefined
  /**
   * How many milliseconds, 50 to 60 000, a request waits for the database: once before the handler, after which `storeFailure` decides,
   * and once to be charged, after which the charge is written later: a tenth before the route's `handlerTimeout` at the
   * latest. The embedded database has no other bound. Default: 900.
   */
  storeTimeoutMs?: number | undefined
  /**
   * Milliseconds within which a reservation is given back after its process died: 100 to 2^31−1. Default: 60 000. Where the client has left and
   * the handler still runs, it is held for up to five times as long.
   */
  reservationTtlMs?: number | undefined
  /**
   * `true` where the tables are distributed by `user_id`, as on Citus: then every statement of a request concerns one user only, and a user's
   * requests share statements only with each other. Default: `false`.
   */
  distributed?: boolean | undefined
  /** For how many days the records of charges and denials are kept. Default: for ever. */
  retention?: RetentionOptions | undefined
}

const FIELDS = [
  'connection',
  'quotas',
  'rules',
  'identify',
  'jwt',
  'admin',
  'self',
  'denial',
  'storeFailure',
  'settle',
  'storeTimeoutMs',
  'reservationTtlMs',
  'retention',
  'distributed',
  'prefix'
]

/** Throws FST_QUOTA_INVALID_OPTION with the path of what is wrong and what to write instead. `spell`: how the router reads the urls of `rules`. */
export function readOptions(options: QuotaOptions, spell?: Spell) {
  requireObject('options', options, '{ quotas: { api_calls: { limit: 100 } } }')
  refuseUnknown('', options, FIELDS)
  const {
    quotas = {},
    rules = [],
    identify,
    jwt,
    admin = false,
    self = {},
    denial,
    storeFailure = 'closed',
    settle = 'before-reply',
    storeTimeoutMs = DEFAULT_STORE_TIMEOUT_MS,
    reservationTtlMs = 60_000,
    retention = {},
    distributed = false
  } = options
  requireObject('quotas', quotas, '{ api_calls: { limit: 100 } }')
  for (const [key, declaration] of Object.entries(quotas)) readDeclaration(key, declaration)
  if (!Array.isArray(rules)) throw new FST_QUOTA_INVALID_OPTION('rules', 'must be an array of rules')
  if (identify !== undefined && typeof identify !== 'function')
    throw new FST_QUOTA_INVALID_OPTION('identify', 'must be a function (request) => user id')
  checkDenial('denial', denial)
  checkStoreFailure('storeFailure', storeFailure)
  if (settle !== 'before-reply' && settle !== 'after-reply')
    throw new FST_QUOTA_INVALID_OPTION('settle', `must be 'before-reply' or 'after-reply', but is '${String(settle)}'`)
  if (typeof distributed !== 'boolean')
    throw new FST_QUOTA_INVALID_OPTION('distributed', `must be true or false, but is ${String(distributed)}`)
  if (!(Number.isInteger(storeTimeoutMs) && storeTimeoutMs >= 50 && storeTimeoutMs <= 60_000)) {
    throw new FST_QUOTA_INVALID_OPTION(
      'storeTimeoutMs',
      `must be a whole number of milliseconds from 50 to 60000, but is ${String(storeTimeoutMs)}`
    )
  }
  if (!(Number.isInteger(reservationTtlMs) && reservationTtlMs >= 100 && reservationTtlMs < 2 ** 31)) {
    throw new FST_QUOTA_INVALID_OPTION(
      'reservationTtlMs',
      `must be a whole number of milliseconds from 100 to 2^31−1, but is ${String(reservationTtlMs)}`
    )
  }
  return {
    connection: options.connection,
    quotas,
    matcher: new RouteMatcher(rules, spell),
    identify,
    jwt: jwt === undefined ? undefined : pinAlgorithms(jwt),
    admin: admin === false ? undefined : readAdminOptions(admin),
    selfUrl: readSelf(self),
    denial,
    storeFailure,
    settle,
    storeTimeoutMs,
    reservationTtlMs,
    retention: readRetention(retention),
    distributed
  }
}

function readSelf(self: SelfOptions | false): string | undefined {
  if (self === false) return undefined
  requireObject('self', self, "{ url: '/quotas/me' }, or false")
  refuseUnknown('self', self, ['url'])
  const { url = DEFAULT_SELF_URL } = self as SelfOptions
  if (typeof url !== 'string' || !/^\/[^*:]+$/.test(url))
    throw new FST_QUOTA_INVALID_OPTION('self.url', 'must be a path such as /quotas/me')
  return url
}

const isNamed = (algorithms: unknown): boolean => Array.isArray(algorithms) && algorithms.length > 0

/** A verifier that takes whatever algorithm a token names can be talked into the wrong one. */
function pinAlgorithms(jwt: FastifyJWTOptions): FastifyJWTOptions {
  requireObject('jwt', jwt, "{ secret: '…' }")
  const { secret } = jwt as FastifyJWTOptions
  const pinned = jwt.verify !== undefined && isNamed((jwt.verify as { algorithms?: unknown }).algorithms)
  if (typeof secret === 'string' && secret.length < MIN_SECRET_LENGTH)
    throw new FST_QUOTA_INVALID_OPTION(
      'jwt.secret',
      `must have at least ${MIN_SECRET_LENGTH} characters; openssl rand -base64 32 makes a good one`
    )
  if (secret === undefined || secret === null)
    throw new FST_QUOTA_INVALID_OPTION(
      'jwt.secret',
      'is missing; set it to the secret or key that tokens are verified with'
    )
  if (pinned) return jwt
  if (typeof secret !== 'string' || secret.includes('-----BEGIN'))
    throw new FST_QUOTA_INVALID_OPTION(
      'jwt.verify.algorithms',
      "is missing; name the algorithms of your key, such as ['RS256']"
    )
  return { ...jwt, verify: { ...jwt.verify, algorithms: ['HS256'] } }
}
