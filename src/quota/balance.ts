// What a user has left of a quota.
import { MAX_AMOUNT, UNLIMITED } from './amount.ts'

/** One counter, as it stands at one instant. */
export interface Balance {
  /** The quota type's key. */
  type: string
  /** The most that may be used; −1: unlimited. */
  limit: number
  /** Charged, and written to `usage_logs`. A charge that is being written just now may count as `used` or `reserved`; the sum is exact. */
  used: number
  /** Held by work that is still running. */
  reserved: number
  /** `limit − used − reserved`, never below 0; −1 when unlimited. */
  remaining: number
  periodStart: Date
  /** When the period ends and the use starts again from 0; null: never. */
  resetsAt: Date | null
}

/** A balance with its type's name, unit and kind. */
export interface NamedBalance extends Balance {
  name: string
  unit: string
  kind: 'flow' | 'level'
}

export const remainingOf = (limit: number, used: number, reserved: number): number =>
  limit === UNLIMITED ? UNLIMITED : Math.max(limit - used - reserved, 0)

/** Whether `amount` more would be admitted; the same rule as the guard of the charging UPDATE. 0 always is, even past the limit. */
export const fits = (balance: Pick<Balance, 'limit' | 'used' | 'reserved'>, amount: number): boolean =>
  amount === 0 || balance.used + balance.reserved + amount <= (balance.limit === UNLIMITED ? MAX_AMOUNT : balance.limit)

/** The share of the limit that is used or reserved, in percent with two decimals; null when unlimited. Above 100 after a limit was lowered. */
export function usagePercent({ limit, used, reserved }: Pick<Balance, 'limit' | 'used' | 'reserved'>): number | null {
  if (limit === UNLIMITED) return null
  if (limit === 0) return 100
  return Math.round(((used + reserved) / limit) * 10_000) / 100
}

/** The balance closest to its limit: the one that the `X-Quota-*` headers describe. An unlimited one only where there is no other. */
export function tightest<B extends Pick<Balance, 'limit' | 'remaining'>>(balances: readonly B[]): B | undefined {
  let least = balances[0]
  for (let i = 1; i < balances.length; i++) {
    const other = balances[i] as B
    if (shareLeft(other) < shareLeft(least as B)) least = other
  }
  return least
}

const shareLeft = ({ limit, remaining }: Pick<Balance, 'limit' | 'remaining'>): number =>
  limit === UNLIMITED ? Number.POSITIVE_INFINITY : limit === 0 ? 0 : remaining / limit
