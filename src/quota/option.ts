// How an option is refused: by its path, with what it accepts.
import { FST_QUOTA_INVALID_OPTION } from './errors.ts'

/** Throws on an unknown field: a misspelt option must not silently leave the default in place. */
export function refuseUnknown(path: string, value: object, known: readonly string[]): void {
  for (const field of Object.keys(value)) {
    if (!known.includes(field))
      throw new FST_QUOTA_INVALID_OPTION(
        path === '' ? field : `${path}.${field}`,
        `is not known; known here: ${known.join(', ')}`
      )
  }
}

export function requireObject(path: string, value: unknown, example: string): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new FST_QUOTA_INVALID_OPTION(path, `must be an object such as ${example}`)
}
