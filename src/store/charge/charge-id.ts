// The id of a charge: a UUID that sorts by time (RFC 9562, version 7).
import { randomUUID } from 'node:crypto'

/** Where the random bits of version 4 begin, behind the version digit; version 7 has random bits in the same places. */
const RANDOM_FROM = 15

let millisecond = Number.NaN
/** Shared by all ids of one millisecond. */
let time = ''

/** Node's random UUID with the time put first: half the cost of a library's id, which takes two buffers. */
export function chargeId(): string {
  const now = Date.now()
  if (now !== millisecond) {
    millisecond = now
    time = timeOf(now)
  }
  return time + randomUUID().slice(RANDOM_FROM)
}

/** No id of this millisecond or a later one is before it. */
export const leastIdAt = (at: number): string => `${timeOf(at)}000-0000-000000000000`

function timeOf(at: number): string {
  const hex = at.toString(16).padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7`
}
