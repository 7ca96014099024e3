// How far a counter goes: no further than JavaScript's whole numbers.
import { MAX_AMOUNT } from './amount.ts'
import type { Balance } from './balance.ts'
import { FST_QUOTA_INVALID_AMOUNT } from './errors.ts'

/** Work that is done is charged even past the limit, but not past 2^53−1. `held` is how much of it the balance already includes. */
export function requireRoom(
  what: string,
  amount: number,
  { used, reserved }: Pick<Balance, 'used' | 'reserved'>,
  held: number
): void {
  const room = MAX_AMOUNT - (used + reserved - held)
  if (amount > room) throw new FST_QUOTA_INVALID_AMOUNT(what, `${amount}, of which the counter has room for ${room}`)
}

/** Where only the database could tell, by its CHECK: others have used the room meanwhile. */
export const withoutRoom = (what: string, amount: number): Error =>
  new FST_QUOTA_INVALID_AMOUNT(what, `${amount}, more than the counter has room for`)
