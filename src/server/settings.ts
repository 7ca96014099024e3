// The environment, read into settings: every variable of the standalone server, its default, and what is refused.
import { BlockList, isIP } from 'node:net'
import { MIN_TOKEN_LENGTH } from '../admin/authorize.ts'
import { MIN_SECRET_LENGTH } from '../request/identify.ts'
import { DEFAULT_DIRECTORY } from '../store/connection/default-directory.ts'
import { keptSecrets } from './kept-secrets.ts'

export interface Settings {
  host: string
  /** 0: any free one. */
  port: number
  logLevel: string
  /** False: the user is the header X-User-Id. */
  isAuthEnabled: boolean
  /** False: nothing is metered, and no quota route exists. */
  isQuotaEnabled: boolean
  connection: string | { dataDir: string }
  /** Undefined where no route asks for it. */
  adminToken: string | undefined
  /** Whether it was made here: only then may it be printed. */
  isAdminTokenKept: boolean
  /** Undefined where no token is verified. */
  jwtSecret: string | undefined
}

/** A variable that makes no sense: its name, and what to write instead. */
export class SettingError extends Error {}

export type Environment = Readonly<Record<string, string | undefined>>

const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']

/** Throws SettingError. An empty variable is one that is not set. */
export function readSettings(environment: Environment): Settings {
  const host = readHost(environment)
  const isAuthEnabled = readSwitch(environment, 'ENABLE_AUTH')
  const isQuotaEnabled = readSwitch(environment, 'ENABLE_QUOTA')
  if (!isAuthEnabled && !isLoopback(host))
    throw new SettingError(
      `ENABLE_AUTH=false lets anyone act as any user, so it needs a loopback HOST, which ${host} is not. Set HOST=127.0.0.1, or leave ENABLE_AUTH out.`
    )
  const settings = {
    host,
    port: readPort(environment),
    logLevel: readLogLevel(environment),
    isAuthEnabled,
    isQuotaEnabled,
    connection: readConnection(environment)
  }
  return { ...settings, ...readSecrets(environment, settings) }
}

type WithoutSecrets = Pick<Settings, 'connection' | 'isAuthEnabled' | 'isQuotaEnabled'>

/** As given, or with the embedded database made and kept beside it. Only those that some route will ask for. */
function readSecrets(environment: Environment, { connection, isAuthEnabled, isQuotaEnabled }: WithoutSecrets) {
  const given = {
    adminToken: readSecret(environment, 'ADMIN_TOKEN', MIN_TOKEN_LENGTH),
    jwtSecret: readSecret(environment, 'JWT_SECRET', MIN_SECRET_LENGTH)
  }
  const needsToken = isQuotaEnabled && given.adminToken === undefined
  const needsSecret = isAuthEnabled && given.jwtSecret === undefined
  if (typeof connection === 'string') {
    if (needsToken) throw missing('ADMIN_TOKEN', 'openssl rand -base64 24')
    if (needsSecret) throw missing('JWT_SECRET', 'openssl rand -base64 32')
  }
  const kept =
    typeof connection !== 'string' && (needsToken || needsSecret) ? keptSecrets(connection.dataDir) : undefined
  return {
    adminToken: isQuotaEnabled ? (given.adminToken ?? kept?.adminToken) : undefined,
    isAdminTokenKept: needsToken,
    jwtSecret: isAuthEnabled ? (given.jwtSecret ?? kept?.jwtSecret) : undefined
  }
}

const missing = (name: string, remedy: string): SettingError =>
  new SettingError(`${name} is missing; with DATABASE_URL, none is generated. Set it; \`${remedy}\` makes a good one.`)

export function readSecret(environment: Environment, name: string, minLength: number): string | undefined {
  const value = environment[name] || undefined
  if (value !== undefined && value.length < minLength)
    throw new SettingError(
      `${name} has ${value.length} characters but needs at least ${minLength}; \`openssl rand -base64 32\` makes a good one.`
    )
  // What a header cannot carry could never be sent.
  if (value !== undefined && name === 'ADMIN_TOKEN' && !/^[!-~]+$/.test(value))
    throw new SettingError(
      'ADMIN_TOKEN may have only visible ASCII characters: it is sent in the header X-Admin-Token.'
    )
  return value
}

/** `DATABASE_URL`, else the directory of the embedded database. */
export function readConnection(environment: Environment): string | { dataDir: string } {
  if (environment.DATABASE_URL) return environment.DATABASE_URL
  const dataDir = environment.QUOTA_DATA_DIR || DEFAULT_DIRECTORY
  if (dataDir.includes('://'))
    throw new SettingError(`QUOTA_DATA_DIR must be a directory, but is '${dataDir}'. Put a URL in DATABASE_URL.`)
  return { dataDir }
}

function readHost({ HOST: host = '' }: Environment): string {
  if (host === '') return '127.0.0.1'
  // A name, or an address; never one with a scheme or a port, which Node would look up as a name.
  if (isIP(host) === 0 && !/^(?!-)[A-Za-z0-9.-]{1,253}$/.test(host))
    throw new SettingError(
      `HOST must be an address such as 127.0.0.1 or a host name, without scheme or port, but is '${host}'.`
    )
  return host
}

function readPort({ PORT: port = '' }: Environment): number {
  if (port === '') return 7500
  if (!/^[0-9]{1,5}$/.test(port) || Number(port) > 65_535)
    throw new SettingError(`PORT must be a whole number from 0 (any free port) to 65535, but is '${port}'.`)
  return Number(port)
}

function readLogLevel({ LOG_LEVEL: level = '' }: Environment): string {
  if (level === '') return 'info'
  if (!LOG_LEVELS.includes(level))
    throw new SettingError(`LOG_LEVEL must be one of ${LOG_LEVELS.join(', ')}, but is '${level}'.`)
  return level
}

/** On unless it says `false`; anything else is refused, since `no` must not be taken for `true`. */
function readSwitch(environment: Environment, name: string): boolean {
  const value = (environment[name] ?? '').toLowerCase()
  if (value !== '' && value !== 'true' && value !== 'false')
    throw new SettingError(`${name} must be true or false, but is '${environment[name]}'.`)
  return value !== 'false'
}

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

function isLoopback(host: string): boolean {
  const family = isIP(host)
  return family === 0 ? host.toLowerCase() === 'localhost' : loopback.check(host, family === 6 ? 'ipv6' : 'ipv4')
}
