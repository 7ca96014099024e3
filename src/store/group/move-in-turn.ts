// One user's moves, where something may have to be done first: its counters be opened, an ended period be closed, or what is dead be given back.

import { ensureUser } from '../charge/ensure-user.ts'
import { expireReservations } from '../charge/expire-reservations.ts'
import { openPeriods } from '../charge/open-period.ts'
import { isRefused } from '../connection/refused.ts'
import type { Database } from '../database.ts'
import { type Move, type Moved, moveOneUser } from './move-many.ts'

/** More than a new user, an ended period and dead reservations take together. */
const ATTEMPTS = 10

type Answers = (Moved | undefined)[]

/**
 * As `moveOneUser`, which it asks again while a reserve is neither made nor refused: the first come stays the first served. Undefined is for what has
 * no counter, though it was opened just now; that, and what the database refuses later than at first, is left to be asked for by itself.
 */
export async function moveInTurn(db: Database, moves: readonly Move[]): Promise<Answers> {
  const answers: Answers = await moveOneUser(db, moves)
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
      const given = await moveOneUser(db, left)
      for (const [i, place] of open.entries()) answers[place] = given[i]
      if (given.includes(undefined)) break
    }
  } catch (error) {
    if (!isRefused(error)) throw error
  }
  return answers
}

const isOpen = (move: Move, moved: Moved | undefined): boolean => move.do === 'reserve' && !moved?.done && !moved?.full

/** Nothing is to be done for whom only one before it, which was refused, kept from being looked at. */
async function bringUpToDate(db: Database, moves: readonly Move[], moved: Answers): Promise<void> {
  const { userId } = moves[0] as Move
  const missing = moves.filter((_, i) => moved[i] === undefined).map(({ typeId }) => typeId)
  if (missing.length > 0) await ensureUser(db, userId, missing)
  if (moved.some(one => one?.ended)) await openPeriods(db, userId)
  if (moved.some(one => one?.dead)) await expireReservations(db, userId)
}
