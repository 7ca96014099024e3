// A server's URL as psql, Prisma and hosting services write it, read into what postgres.js takes.
import type postgres from 'postgres'
import { FST_QUOTA_CONNECTION } from '../../quota/errors.ts'

type Options = postgres.Options<Record<string, never>>

/** A URL with other options of postgres.js: `max`, `ssl`, `prepare` … */
export interface ServerConnection extends Options {
  url: string
}

/** One server, as postgres.js takes it. */
export interface Address {
  host?: string[]
  port?: number | number[] | undefined
  path?: string
}

interface Read extends ServerConnection {
  max: number
  connect_timeout: number
  /** More than one where the URL names several servers. */
  addresses: Address[]
}

/** Parameters of libpq and Prisma. postgres.js would send them to the server, which refuses a connection with any it does not know. */
const NOT_THE_SERVERS = [
  'channel_binding',
  'fallback_application_name',
  'gssencmode',
  'keepalives',
  'keepalives_count',
  'keepalives_idle',
  'keepalives_interval',
  'load_balance_hosts',
  'sslcompression',
  'sslsni',
  'tcp_user_timeout',
  'connection_limit',
  'pgbouncer',
  'pool_timeout',
  'schema',
  'socket_timeout',
  'statement_cache_size'
]

/** Ignoring these would trust servers that the URL does not trust. */
const IN_FILES = ['sslaccept', 'sslcert', 'sslcrl', 'sslidentity', 'sslkey', 'sslpassword', 'sslrootcert']

/** Instead of `URL`, which refuses several hosts, and a user without one. */
const PARTS = /^(postgres(?:ql)?:)\/\/(?:([^/?#]*)@)?([^@/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/i

/**
 * Throws FST_QUOTA_CONNECTION, without the password in it, for a URL that makes no sense. Options beside the URL win. The returned URL has
 * only settings, of postgres.js and of the server.
 */
export function readServer({ url, ...options }: ServerConnection): Read {
  requireScheme(url)
  const parts = PARTS.exec(url) ?? refuse(INVALID)
  const query = new URLSearchParams(parts[5])
  const [user, password] = splitOnce(parts[2] ?? '', ':').map(decode)
  const take = (name: string) => {
    const value = query.get(name)
    query.delete(name)
    return value || undefined
  }
  const asked = take('host') ?? (parts[3] || process.env.PGHOST || '')
  const beside = String(options.host || options.hostname || '')
  const hosts = hostsOf(beside.includes(',') ? beside : asked, String(options.port ?? '') || take('port'))
  const addresses = addressesOf(hosts, options)
  const attributes = options.target_session_attrs ?? take('target_session_attrs') ?? process.env.PGTARGETSESSIONATTRS
  const prepare = options.prepare ?? toldBy(take('prepare')) ?? (query.get('pgbouncer') === 'true' ? false : undefined)
  const read = {
    database: options.db ?? take('dbname') ?? (decode(parts[4] ?? '') || undefined),
    username: take('user') ?? (user || undefined),
    password: take('password') ?? (password || undefined),
    ...options,
    // A list is in `addresses`, and postgres.js takes `hostname` before them.
    ...(beside.includes(',') ? { hostname: undefined } : {}),
    addresses,
    ...attributesOf(attributes),
    ...(prepare === undefined ? {} : { prepare }),
    max: count('max', options.max ?? query.get('max') ?? 10, 1),
    connect_timeout: count('connect_timeout', options.connect_timeout ?? query.get('connect_timeout') ?? 2, 0)
  }
  keepSettings(query, options)
  return { ...read, url: `postgres://?${query}` }
}

/** For messages: where the URL leads, without the password. */
export function labelServer(url: string): string {
  const [, scheme, login = '', hosts, database] = PARTS.exec(url) ?? []
  if (scheme === undefined) return 'a URL that is not valid'
  const [user] = splitOnce(login, ':')
  return `${scheme}//${user ? `${user}@` : ''}${hosts}${database === undefined ? '' : `/${database}`}`
}

const INVALID = 'is not a valid URL; a password with special characters must be percent-encoded'

function refuse(remedy: string): never {
  throw new FST_QUOTA_CONNECTION(remedy)
}

function requireScheme(url: string): void {
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(url)?.[1]?.toLowerCase()
  if (scheme?.startsWith('postgresql+') || scheme?.startsWith('postgres+'))
    refuse(`has the scheme ${scheme}://, which is SQLAlchemy's; write postgresql:// instead`)
  if (scheme !== 'postgres' && scheme !== 'postgresql')
    refuse('must begin with postgres:// or postgresql://; for the embedded database write { dataDir }')
}

function splitOnce(text: string, separator: string): string[] {
  const at = text.indexOf(separator)
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)]
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return refuse(INVALID)
  }
}

interface Host {
  name: string
  port: number | undefined
}

const HOST = /^(?:\[([\da-f:.%]+)\]|([^:[\]\s]*))(?::(\d{1,5}))?$/i

/** A directory of sockets is one host, colons and all. */
function hostsOf(text: string, ports: string | undefined): Host[] {
  const told = ports?.split(',') ?? []
  const portOf = (own: string | undefined, i: number) => {
    const port = told[i] ?? told[0] ?? own
    if (Number(port) > 65_535) refuse(INVALID)
    return port === undefined ? undefined : count('port', port, 1)
  }
  const dir = decode(text)
  if (dir.startsWith('/')) return [{ name: dir, port: portOf(undefined, 0) }]
  const hosts = text.split(',').map((host, i) => {
    const [, six, name, port] = HOST.exec(host) ?? refuse(INVALID)
    return { name: decode(six ?? name ?? ''), port: portOf(port, i) }
  })
  if (hosts.length > 1 && hosts.some(({ name }) => name === '')) refuse(INVALID)
  return hosts
}

/** As lists, which the types of postgres.js do not know: in a string it takes what follows a colon for the port, even within an IPv6 address. */
function addressesOf(hosts: readonly Host[], options: Options): Address[] {
  const [first] = hosts
  const port = (host: Host) => host.port ?? first?.port ?? Number(process.env.PGPORT ?? 5432)
  // A host given beside the URL is passed on as it is.
  const isBeside = !String(options.host || options.hostname || ',').includes(',')
  if (isBeside || options.path || !first?.name) return [{ port: options.port ?? first?.port }]
  if (first.name.startsWith('/')) return [{ path: `${first.name}/.s.PGSQL.${port(first)}` }]
  return hosts.map(host => ({ host: [host.name], port: [port(host)] }))
}

/** postgres.js (3.4.9) takes any standby of PostgreSQL 14 or newer for `read-write`, and does not know `any`, the default of libpq. */
function attributesOf(told: string | undefined): Options {
  if (told === undefined || told === 'any') return {}
  return { target_session_attrs: (told === 'read-write' ? 'primary' : told) as Options['target_session_attrs'] }
}

/** A pool of no connections, or of NaN, would let every statement wait forever. */
function count(name: string, value: unknown, least: number): number {
  const number = Number(value)
  if (!Number.isInteger(number) || number < least || value === '')
    refuse(`has ${name}=${value}; it must be a whole number of at least ${least}`)
  return number
}

const toldBy = (value: string | undefined): boolean | undefined => (value === undefined ? undefined : value !== 'false')

/** Removes what is for other clients. */
function keepSettings(query: URLSearchParams, { ssl }: Options): void {
  for (const name of NOT_THE_SERVERS) query.delete(name)
  // node-postgres' word for what libpq calls `require`; postgres.js takes any that it does not know for verify-full.
  if (query.get('sslmode') === 'no-verify') query.set('sslmode', 'require')
  if (query.get('sslrootcert') === 'system') {
    query.set('sslmode', 'verify-full')
    query.delete('sslrootcert')
  }
  for (const name of IN_FILES) {
    if (ssl === undefined && query.has(name))
      refuse(
        `has ${name}, which a URL cannot have; write { url, ssl: { ca, cert, key } } with the contents of the files`
      )
    query.delete(name)
  }
}
