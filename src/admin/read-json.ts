// A JSON body, read as strictly as a query: JSON.parse keeps the last of two members, and of a numeral what a float holds.
import type { FastifyBodyParser } from 'fastify'
import { invalidLimit, refuse } from './input.ts'

/** After Fastify's own parser, which refuses what is no JSON or would reach a prototype. */
export const strictly =
  (parse: FastifyBodyParser<string>): FastifyBodyParser<string> =>
  (request, text, done) =>
    parse(request, text, (error, body) => done(error ?? faultIn(text, body), body))

/** A key, or a text that is a value; after a key, its value where that is a numeral. */
const MEMBER = /("[^"\\]*(?:\\.[^"\\]*)*")(\s*:\s*(-?\d[\d.eE+-]*)?)?/g

/** What the schemas cannot see any more. They refuse a member that is no text, number or boolean, and all but objects. */
function faultIn(text: string, body: unknown): Error | null {
  if (Object.values(body ?? {}).some(value => typeof value === 'object' && value !== null)) return null
  const keys = new Set<string>()
  for (const [, string, colon, numeral] of text.matchAll(MEMBER)) {
    if (colon === undefined) continue
    const key = JSON.parse(string as string)
    if (keys.has(key)) return refuse(key, 'is given more than once; give it once')
    // Limits are the only numbers here.
    if (numeral !== undefined && decimalOf(numeral) !== decimalOf(String(Number(numeral))))
      return invalidLimit(key, numeral)
    keys.add(key)
  }
  return null
}

/** Alike for 5, 5.0 and 50e-1: the digits without outer zeros, and the power of ten. */
function decimalOf(numeral: string): string {
  const [, sign = '', whole = numeral, fraction = '', power = 0] = /^(-?)(\d+)\.?(\d*)(?:e(.+))?$/i.exec(numeral) ?? []
  const digits = `${whole}${fraction}`.replace(/^0+/, '')
  // The lookbehind keeps it linear.
  const kept = digits.replace(/(?<!0)0+$/, '')
  return kept === '' ? '0' : `${sign}${kept}e${Number(power) - fraction.length + digits.length - kept.length}`
}
