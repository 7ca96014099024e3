// A counter's row as it is read, and the balance that it means.
import { type Balance, remainingOf } from '../../quota/balance.ts'
import { dateOf, dateOrNull } from '../database.ts'

export interface CounterRow {
  limit_amount: number
  used_amount: number
  /** What is held of it, as by `heldOf`. */
  reserved_amount: number
  period_start: number
  period_end: number | null
}

/** A plain object, as it is given to an application. */
export const balanceOf = (type: string, row: CounterRow): Balance => ({ ...new CounterBalance(type, row) })

/**
 * The stored `used_amount` includes what is held; a balance separates what is charged from what is held. The held amount is as of the
 * statement's start, while `used_amount` may be newer if the statement waited for the row.
 */
export class CounterBalance implements Balance {
  readonly type: string
  readonly limit: number
  readonly used: number
  readonly reserved: number
  readonly remaining: number
  readonly periodStart: Date
  readonly resetsAt: Date | null

  constructor(type: string, row: CounterRow) {
    this.type = type
    this.limit = Number(row.limit_amount)
    this.reserved = Math.max(Number(row.reserved_amount), 0)
    this.used = Math.max(Number(row.used_amount) - this.reserved, 0)
    this.remaining = remainingOf(this.limit, this.used, this.reserved)
    this.periodStart = dateOf(row.period_start)
    this.resetsAt = dateOrNull(row.period_end)
  }
}
