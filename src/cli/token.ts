// fastify-quota token: a JWT to try with.
import fastifyJwt from '@fastify/jwt'
import Fastify from 'fastify'
import { isUserId } from '../quota/user-id.ts'
import { MIN_SECRET_LENGTH } from '../request/identify.ts'
import { readKeptSecrets } from '../server/kept-secrets.ts'
import { readConnection, readSecret } from '../server/settings.ts'
import { DEFAULT_DIRECTORY } from '../store/connection/default-directory.ts'
import { type Command, text, UsageError } from './command.ts'

const DEFAULT_TTL = '1h'

export const token: Command = {
  name: 'token',
  description:
    'Prints a JWT (HS256) whose `sub` is the user, signed with JWT_SECRET, or with the secret that the standalone server keeps beside its embedded database.',
  flags: {
    user: { type: 'string', value: 'ID', help: 'The user; required.' },
    ttl: {
      type: 'string',
      value: 'TIME',
      help: `How long it is valid, such as 90s, 15m, 1h or 7d. Default: ${DEFAULT_TTL}.`
    },
    'data-dir': {
      type: 'string',
      value: 'DIR',
      help: `Where the secret is kept. Default: QUOTA_DATA_DIR, else ${DEFAULT_DIRECTORY}.`
    }
  },
  async run(values, print) {
    const user = text(values, 'user')
    if (user === undefined) throw new UsageError('--user is missing; name the user that the token is for.')
    if (!isUserId(user)) throw new UsageError('--user must be 1 to 255 characters without control characters.')
    const ttl = text(values, 'ttl') ?? DEFAULT_TTL
    if (!/^[1-9][0-9]{0,5}[smhd]$/.test(ttl))
      throw new UsageError(`--ttl must be a time such as 90s, 15m, 1h or 7d, but is '${ttl}'.`)
    print(await sign(findSecret(text(values, 'data-dir')), user, ttl))
    return 0
  }
}

function findSecret(dataDir: string | undefined): string {
  const given = dataDir === undefined ? readSecret(process.env, 'JWT_SECRET', MIN_SECRET_LENGTH) : undefined
  if (given !== undefined) return given
  const { DATABASE_URL: _, ...environment } = process.env
  const kept = dataDir === undefined ? (readConnection(environment) as { dataDir: string }) : { dataDir }
  const secret = readKeptSecrets(kept.dataDir)?.jwtSecret
  if (secret === undefined)
    throw new Error(
      `There is no secret to sign with: JWT_SECRET is not set, and none is kept in ${kept.dataDir}. Set JWT_SECRET to the server's, or give its directory with --data-dir.`
    )
  return secret
}

async function sign(secret: string, user: string, ttl: string): Promise<string> {
  const app = Fastify()
  await app.register(fastifyJwt, { secret, sign: { algorithm: 'HS256' } })
  return app.jwt.sign({ sub: user }, { expiresIn: ttl })
}
