// What is asked for one user, where something may have to be done first: open its counters, close an ended period, or release what has expired.

import { ensureUser } from '../charge/ensure-user.ts'
import { expireReservations } from '../charge/expire-reservations.ts'
import { openPeriods } from '../charge/open-period.ts'
import { isRefused } from '../connection/refused.ts'
import type { Database } from '../database.ts'

/** More than a new user, an ended period and expired reservations need together. */
const ATTEMPTS = 10

export interface Asked {
  userId: string
  typeId: number
}

export interface Told {
  done: boolean
  /** It does not fit, and nothing could be released. */
  full: boolean
  /** The period has ended. */
  ended: boolean
  /** It did not fit, but something has expired that could be released. */
  dead: boolean
}

interface InTurn<One, Answered> {
  /** Undefined: it has no counter. */
  ofOne: (db: Pick<Database, 'query'>, all: readonly One[]) => Promise<(Answered | undefined)[]>
  isOpen: (one: One, answered: Answered | undefined) => boolean
}

/**
 * Like `ofOne`, but repeated while something is open, so that it stays first come, first served. Undefined: it has no counter although one was just
 * opened. That, and what the database refuses after the first attempt, is left to be asked for by itself.
 */
export async function inTurn<One extends Asked, Answered extends Told>(
  db: Database,
  all: readonly One[],
  { ofOne, isOpen }: InTurn<One, Answered>
): Promise<(Answered | undefined)[]> {
  const answers = await ofOne(db, all)
  try {
    for (let attempt = 2; attempt <= ATTEMPTS; attempt++) {
      const open = [...all.keys()].filter(place => isOpen(all[place] as One, answers[place]))
      if (open.length === 0) break
      const left = open.map(place => all[place] as One)
      await bringUpToDate(
        db,
        left,
        open.map(place => answers[place])
      )
      const given = await ofOne(db, left)
      for (const [i, place] of open.entries()) answers[place] = given[i]
      if (given.includes(undefined)) break
    }
  } catch (error) {
    if (!isRefused(error)) throw error
  }
  return answers
}

/** Does nothing for one that was left out only because of one before it, which was refused. */
async function bringUpToDate(db: Database, all: readonly Asked[], told: readonly (Told | undefined)[]): Promise<void> {
  const { userId } = all[0] as Asked
  const missing = all.filter((_, i) => told[i] === undefined).map(({ typeId }) => typeId)
  if (missing.length > 0) await ensureUser(db, userId, missing)
  if (told.some(one => one?.ended)) await openPeriods(db, userId)
  if (told.some(one => one?.dead)) await expireReservations(db, userId)
}
