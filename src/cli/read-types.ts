// The quota types of a JSON file, checked before any of them is written.
import { readFileSync } from 'node:fs'
import { type QuotaDeclaration, readDeclaration } from '../quota/quota-type.ts'

const EXAMPLE = '{ "api_calls": { "limit": 100, "period": "month" } }'

/** The file is what the option `quotas` takes: an object of declarations by key. */
export function readTypes(file: string): Record<string, QuotaDeclaration> {
  const types = parse(file)
  if (typeof types !== 'object' || types === null || Array.isArray(types))
    throw new Error(`${file} must hold an object such as ${EXAMPLE}.`)
  for (const [key, declaration] of Object.entries(types)) {
    try {
      readDeclaration(key, declaration)
    } catch (error) {
      throw new Error(`${file}: ${(error as Error).message.replace(/^Option quotas\./, '')}`)
    }
  }
  return types as Record<string, QuotaDeclaration>
}

function parse(file: string): unknown {
  try {
    // Unlike 'utf8' this skips a byte order mark.
    return JSON.parse(new TextDecoder().decode(readFileSync(file)))
  } catch (error) {
    throw new Error(`${file} cannot be read as JSON: ${(error as Error).message}`)
  }
}
