// The secrets of a server that was given none: made once, and kept beside the embedded database, for its owner only.
import { randomBytes, randomUUID } from 'node:crypto'
import { linkSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makePrivateDirectory } from '../store/connection/make-private-directory.ts'

export interface KeptSecrets {
  adminToken: string
  jwtSecret: string
}

const FILE = 'secrets.json'

/** Those kept in this directory, made if there are none. */
export function keptSecrets(dataDir: string): KeptSecrets {
  return readKeptSecrets(dataDir) ?? make(dataDir)
}

/** Undefined where none were made yet. */
export function readKeptSecrets(dataDir: string): KeptSecrets | undefined {
  const file = join(dataDir, FILE)
  const text = readIfThere(dataDir, file)
  if (text === undefined) return undefined
  const secrets = parse(text)
  if (secrets === undefined)
    throw new Error(
      `${file} does not hold the secrets that were kept there. Restore it, or delete it to have new ones made.`
    )
  return secrets
}

function make(dataDir: string): KeptSecrets {
  const file = join(dataDir, FILE)
  // Not named by the pid: two containers may have the same, and the second would overwrite what the first has just linked.
  const draft = `${file}.${randomUUID()}`
  const text = JSON.stringify(
    { admin_token: randomBytes(24).toString('base64url'), jwt_secret: randomBytes(32).toString('base64url') },
    null,
    2
  )
  try {
    makePrivateDirectory(dataDir)
    writeFileSync(draft, `${text}\n`, { flag: 'wx', mode: 0o600 })
  } catch (error) {
    throw unusable(dataDir, error)
  }
  // Linking fails if the file exists: of two processes that start at once, one makes the secrets, and both read them whole.
  try {
    linkSync(draft, file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    unlinkSync(draft)
  }
  return readKeptSecrets(dataDir) as KeptSecrets
}

function readIfThere(dataDir: string, file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw unusable(dataDir, error)
  }
}

const unusable = (dataDir: string, error: unknown): Error =>
  new Error(
    `QUOTA_DATA_DIR: secrets cannot be kept in ${dataDir} (${(error as Error).message}). Name a directory that can be read and written.`
  )

function parse(text: string): KeptSecrets | undefined {
  try {
    const { admin_token: adminToken, jwt_secret: jwtSecret } = JSON.parse(text)
    return typeof adminToken === 'string' && typeof jwtSecret === 'string' ? { adminToken, jwtSecret } : undefined
  } catch {
    return undefined
  }
}
