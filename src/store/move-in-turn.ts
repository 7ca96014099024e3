// One user's moves, where something may have to be done first: its counters be opened, an ended period be closed, or what is dead be given back.
import type { Database } from './database.ts'
import { ensureUser } from './ensure-user.ts'
import { expireReservations } from './expire-reservations.ts'
import { type Move, type Moved, moveOneUser } from './move-many.ts'
import { openPeriods } from './open-period.ts'

/** More than a new user, an ended period and dead reservations take together. */
const ATTEMPTS = 10

/**
 * As `moveOneUser`, which it asks again while a reserve is neither made nor refused: the first come stays the first served. Undefined is then for what
 * has no counter, though it was opened just now.
 */
export async function moveInTurn(db: Database, moves: readonly Move[]): Promise<(Moved | undefined)[]> {
  const answers: (Moved | undefined)[] = moves.map(() => undefined)
  let left = moves.map((_, place) => place)
  for (let attempt = 1; ; attempt++) {
    const given = await moveOneUser(
      db,
      left.map(place => moves[place] as Move)
    )
    left.forEach((place, i) => {
      answers[place] = given[i]
    })
    left = left.filter(place => isOpen(moves[place] as Move, answers[place]))
    const isStillMissing = attempt > 1 && left.some(place => answers[place] === undefined)
    if (left.length === 0 || isStillMissing || attempt === ATTEMPTS) return answers
    await bringUpToDate(
      db,
      left.map(place => [moves[place] as Move, answers[place]])
    )
  }
}

const isOpen = (move: Move, moved: Moved | undefined): boolean => move.do === 'reserve' && !moved?.done && !moved?.full

/** Nothing is to be done for whom only those before it, which were refused, kept from being looked at. */
async function bringUpToDate(db: Database, open: readonly (readonly [Move, Moved | undefined])[]): Promise<void> {
  const { userId } = (open[0] as readonly [Move, unknown])[0]
  const missing = open.filter(([, moved]) => moved === undefined).map(([{ typeId }]) => typeId)
  if (missing.length > 0) await ensureUser(db, userId, missing)
  if (open.some(([, moved]) => moved?.ended)) await openPeriods(db, userId)
  if (open.some(([, moved]) => moved?.dead)) await expireReservations(db, userId)
}
