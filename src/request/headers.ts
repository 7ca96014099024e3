// What a reply says about quotas: `X-Quota-*` for the tightest charge, and the fields of the IETF RateLimit draft for all of them.
import { UNLIMITED } from '../quota/amount.ts'
import { type Balance, remainingOf, tightest } from '../quota/balance.ts'

/** A balance, and what this request was charged. */
export interface Cost extends Balance {
  cost: number
}

/** What the balance will be once `gone` is no longer held and `charged` is used. */
export class Projected implements Cost {
  readonly type: string
  readonly limit: number
  readonly used: number
  readonly reserved: number
  readonly remaining: number
  readonly periodStart: Date
  readonly resetsAt: Date | null
  readonly cost: number

  constructor(
    { type, limit, used, reserved, periodStart, resetsAt }: Balance,
    gone: number,
    charged: number,
    cost: number
  ) {
    this.type = type
    this.limit = limit
    this.used = used + charged
    this.reserved = Math.max(reserved - gone, 0)
    this.remaining = remainingOf(limit, this.used, this.reserved)
    this.periodStart = periodStart
    this.resetsAt = resetsAt
    this.cost = cost
  }
}

/** RFC 9651 integers have at most 15 digits. */
const MAX_INTEGER = 999_999_999_999_999

export type QuotaHeaders = Record<string, string | number>

/** What some replies leave out: another type's, or that of a service whose reply is passed on, must not stay there instead. */
export const SOMETIMES_SAID = ['x-quota-reset', 'ratelimit-policy', 'ratelimit']

/** `now`: by the database's clock, in milliseconds. `among`: the costs whose tightest the `X-Quota-*` headers describe. */
export function quotaHeaders(costs: readonly Cost[], now: number, among = costs): QuotaHeaders {
  const first = tightest(among)
  if (first === undefined) return {}
  // Set one by one: spread into one object, they cost twice as much.
  const headers: QuotaHeaders = {
    'x-quota-type': first.type,
    'x-quota-limit': first.limit,
    'x-quota-used': first.used,
    'x-quota-remaining': first.remaining,
    'x-quota-cost': first.cost
  }
  if (first.resetsAt !== null) headers['x-quota-reset'] = Math.ceil(first.resetsAt.getTime() / 1000)
  let policies = ''
  let rateLimits = ''
  for (const cost of costs) {
    if (cost.limit === UNLIMITED) continue
    policies += policies === '' ? policy(cost) : `, ${policy(cost)}`
    rateLimits += rateLimits === '' ? rateLimit(cost, now) : `, ${rateLimit(cost, now)}`
  }
  if (policies !== '') {
    headers['ratelimit-policy'] = policies
    headers.ratelimit = rateLimits
  }
  return headers
}

/** `q`: the quota; `w`: the window in seconds, absent when it never resets. */
const policy = ({ type, limit, periodStart, resetsAt }: Balance): string =>
  `"${type}";q=${integer(limit)}${resetsAt === null ? '' : `;w=${integer(seconds(resetsAt, periodStart.getTime()))}`}`

/** `r`: what remains; `t`: seconds until the window ends. */
const rateLimit = ({ type, remaining, resetsAt }: Balance, now: number): string =>
  `"${type}";r=${integer(remaining)}${resetsAt === null ? '' : `;t=${integer(seconds(resetsAt, now))}`}`

const seconds = (end: Date, start: number): number => Math.max(Math.ceil((end.getTime() - start) / 1000), 0)
const integer = (value: number): number => Math.min(value, MAX_INTEGER)
