// One user's moves, where something may have to be done first: open its counters, close an ended period, or release what has expired.

import { ensureUser } from '../charge/ensure-user.ts'
import { expireReservations } from '../charge/expire-reservations.ts'
import type { HeldSince } from '../charge/held-since.ts'
import { openPeriods } from '../charge/open-period.ts'
import { isRefused } from '../connection/refused.ts'
import type { Database } from '../database.ts'
import { type Move, type Moved, moveOneUser } from './move-many.ts'

/** More than a new user, an ended period and expired reservations need together. */
const ATTEMPTS = 10

type Answers = (Moved | undefined)[]

/**
 * Like `moveOneUser`, but repeated while a reserve is neither made nor refused, so that it stays first come, first served. Undefined: it has no
 * counter although one was just opened. That, and what the database refuses after the first attempt, is left to be asked for by itself.
 */
export async function moveInTurn(db: Database, moves: readonly Move[], heldSince: HeldSince): Promise<Answers> {
  const answers: Answers = await moveOneUser(db, moves, heldSince)
  try {
    for (let attempt = 2; attempt <= ATTEMPTS; attempt++) {
      const open = [...moves.keys()].filter(place => isOpen(moves[place] as Move, answers[place]))
      if (open.length === 0) break
      const left = open.map(place => moves[place] as Move)
      await bringUpToDate(
        db,
        left,
        open.map(place => answers[place])
      )
      const given = await moveOneUser(db, left, heldSince)
      for (const [i, place] of open.entries()) answers[place] = given[i]
      if (given.includes(undefined)) break
    }
  } catch (error) {
    if (!isRefused(error)) throw error
  }
  return answers
}

const isOpen = (move: Move, moved: Moved | undefined): boolean => move.do === 'reserve' && !moved?.done && !moved?.full

/** Does nothing for a move that was left out only because of one before it, which was refused. */
async function bringUpToDate(db: Database, moves: readonly Move[], moved: Answers): Promise<void> {
  const { userId } = moves[0] as Move
  const missing = moves.filter((_, i) => moved[i] === undefined).map(({ typeId }) => typeId)
  if (missing.length > 0) await ensureUser(db, userId, missing)
  if (moved.some(one => one?.ended)) await openPeriods(db, userId)
  if (moved.some(one => one?.dead)) await expireReservations(db, userId)
}
