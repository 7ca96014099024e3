// A page of a list: how many, and after which row. A cursor is where the previous page ended, so a page costs the same however deep it is,
// and stays right while rows are added.
import { isUserId } from '../quota/user-id.ts'
import { LAST_INSTANT_MS, type Query, readCount, refuse } from './input.ts'
import { PAGE_FIELDS } from './schemas.ts'

/** What a list's position is made of: how it is written into a cursor, and read from one. */
export interface CursorOf<P> {
  /** A cursor of one list means nothing in another. */
  list: string
  write(position: P): (string | number)[]
  /** Undefined where the parts are not what `write` gives. */
  read(parts: readonly unknown[]): P | undefined
}

export interface Page<P> {
  limit: number
  offset: number
  after: P | undefined
}

export function readPage<P>(query: Query, cursor: CursorOf<P>): Page<P> {
  if (query.cursor !== undefined && query.offset !== undefined)
    throw refuse('offset', 'cannot be combined with cursor; leave one of them out')
  return {
    limit: readCount(query, 'limit', PAGE_FIELDS.limit),
    offset: readCount(query, 'offset', PAGE_FIELDS.offset),
    after: query.cursor === undefined ? undefined : readCursor(query.cursor, cursor)
  }
}

/** The rows to show, of one more than was asked for; the extra row tells that there is a next page. */
export const shown = <R>(rows: readonly R[], { limit }: { limit: number }): readonly R[] => rows.slice(0, limit)

export function nextCursor<P>(rows: readonly P[], { limit }: { limit: number }, cursor: CursorOf<P>): string | null {
  return rows.length > limit ? writeCursor(rows[limit - 1] as P, cursor) : null
}

const writeCursor = <P>(position: P, { list, write }: CursorOf<P>): string =>
  Buffer.from(JSON.stringify([list, ...write(position)])).toString('base64url')

/** Takes only cursors that were given out: one must read as this list's, and be written the same again. */
function readCursor<P>(text: string, cursor: CursorOf<P>): P {
  const [list, ...parts] = decode(text)
  const position = list === cursor.list ? cursor.read(parts) : undefined
  if (position === undefined || writeCursor(position, cursor) !== text)
    throw refuse('cursor', 'must be the next_cursor of an earlier page of this list, in the same order')
  return position
}

function decode(text: string): unknown[] {
  try {
    const value: unknown = JSON.parse(Buffer.from(text, 'base64url').toString())
    return Array.isArray(value) ? value : []
  } catch {
    return []
  }
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** For lists in order of time. */
export const byTime = (list: string): CursorOf<{ createdAt: Date; id: string }> => ({
  list,
  write: ({ createdAt, id }) => [createdAt.getTime(), id],
  read: ([time, id]) =>
    Number.isSafeInteger(time) &&
    (time as number) >= 0 &&
    (time as number) <= LAST_INSTANT_MS &&
    typeof id === 'string' &&
    UUID.test(id)
      ? { createdAt: new Date(time as number), id }
      : undefined
})

/** For users, by what they are ranked by. */
export const byRank = (sort: string): CursorOf<{ rank: string; userId: string }> => ({
  list: `users by ${sort}`,
  write: ({ rank, userId }) => [rank, userId],
  read: ([rank, userId]) =>
    typeof rank === 'string' && /^-?[0-9]{1,30}(\.[0-9]{1,30})?$/.test(rank) && isUserId(userId)
      ? { rank, userId }
      : undefined
})
