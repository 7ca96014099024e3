// Whether a status is charged, according to the rule.
import type { FastifyBaseLogger } from 'fastify'
import { isSuccess } from '../quota/outcome.ts'
import type { RequestMetering } from './match.ts'

/** Where the rule gives no answer, the default's is taken. */
export function judge({ isCharged, source }: RequestMetering, statusCode: number, log: FastifyBaseLogger): boolean {
  try {
    const word: unknown = isCharged(statusCode)
    if (typeof word === 'boolean') return word
    // It came from an async function: a rejection that nobody handles would end the process.
    if (word instanceof Promise) word.catch(() => {})
    throw new TypeError(`charge must return true or false, but returned ${String(word)}`)
  } catch (error) {
    log.error({ err: error, rule: source }, 'the charge function of a quota rule failed; 2xx is charged instead')
    return isSuccess(statusCode)
  }
}
