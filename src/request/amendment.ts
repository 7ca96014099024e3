// A charge that is already written, but cost another amount than it says: its log row is written anew.
import type { FastifyBaseLogger } from 'fastify'
import type { Balance } from '../quota/balance.ts'
import type { CommittedCharge } from '../store/charge/commit.ts'
import { settlingOn } from '../store/group/settling.ts'
import type { Cost } from './headers.ts'
import type { OwedListener } from './owed.ts'
import type { SettleContext } from './settle-context.ts'

interface Charged {
  readonly userId: string
  readonly endpoint: string
  readonly log: FastifyBaseLogger
  /** Is told of what could not be written. */
  readonly listener: Pick<OwedListener<never>, 'owed' | 'dropped'>
}

interface Amendment {
  former: readonly CommittedCharge[]
  /** Each at the index of the former one. */
  charges: readonly CommittedCharge[]
}

/**
 * Resolves when it is written, or known to be owed; never rejects. `written` is called whenever it is written, and returns the costs that
 * follow from the balances.
 */
export async function amendCharges(
  { db, denials, emit, owed, store }: SettleContext,
  { userId, endpoint, log, listener }: Charged,
  { former, charges }: Amendment,
  written: (balances: Map<string, Balance>) => Cost[]
): Promise<void> {
  const amended = charges.filter(({ amount }, i) => amount !== former[i]?.amount)
  if (amended.length === 0) return
  const note = (balances: Map<string, Balance>): Cost[] => {
    // There may be room again.
    denials.forget(userId)
    return written(balances)
  }
  await owed.attempt(store.amend(userId, amended), {
    again: async () => note(await settlingOn(db).amend(userId, amended)),
    written: balances => {
      const types = new Set(amended.map(({ type }) => type))
      const told = note(balances).filter(({ type }) => types.has(type))
      const facts = told.map(({ type, cost, remaining }) => ({ type, amount: cost, remaining }))
      emit({ name: 'amended', userId, endpoint, charges: facts }, log)
    },
    owed: (error, over) => listener.owed(error, over),
    dropped: error => listener.dropped(error)
  })
}
