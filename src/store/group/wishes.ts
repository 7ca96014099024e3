// What requests wish to hold, as the statements that hold for many take it, and what those say of each.
import { intArray, numbersOf, textArray, uuidArray } from '../arrays.ts'
import type { CounterRow } from '../charge/counter-balance.ts'
import { counterKey, type HeldSince } from '../charge/held-since.ts'
import type { Database } from '../database.ts'
import type { HoldStatement, ToldRow } from './hold-statement.ts'

/** One amount of one type, for one user. */
export interface Wish {
  userId: string
  id: string
  typeId: number
  amount: number
  leaseMs: number
}

/** The counter, as it was after this wish's own turn. */
export interface Held extends CounterRow {
  /** False: it does not fit, and nothing has expired that could be released. */
  held: boolean
  /** The instant, by the database's clock. */
  at: number
}

/** Its counter must be opened first, or go on to the period that runs. */
export const OUTDATED = 'outdated'

/** What a statement says of a wish; undefined where it leaves it to others. */
export type Told = Held | typeof OUTDATED | undefined

/** What is asked of one counter. */
interface Asked {
  key: string
  userId: string
  typeId: number
  sum: number
  /** The least that one of them asks for. */
  least: number
  /** The first one's number, `n`. */
  first: number
  /** The places of its wishes among all, in order of arrival. */
  places: number[]
}

/** Wishes, by the counters that they are for. */
export class Wishes {
  readonly all: readonly Wish[]
  readonly counters: readonly Asked[]
  /** All wishes for the same counter are of the same amount. */
  readonly areAlike: boolean
  /** How long the statement took the server, where that is known. */
  tookMs = 0
  readonly #heldSince: HeldSince

  constructor(all: readonly Wish[], heldSince: HeldSince) {
    const { counters, areAlike } = countersOf(all)
    this.#heldSince = heldSince
    this.all = all
    this.counters = counters
    this.areAlike = areAlike
  }

  /** What `statement` makes of each. */
  async ask(db: Pick<Database, 'query'>, { text, isBounded }: HoldStatement): Promise<Told[]> {
    const { all, counters } = this
    const answers: Told[] = all.map(() => undefined)
    const values = valuesOf(all, counters)
    if (isBounded) values.push(uuidArray(counters.map(({ key }) => this.#heldSince.of(key))))
    const [row] = await db.query<ToldRow>(text, values)
    if (row === undefined) return answers
    this.tookMs = row.took ?? 0
    if (isBounded) this.#learn(row)
    answerEach(answers, all, counters, row)
    if (answers.includes(undefined)) markMissing(answers, counters, row)
    return answers
  }

  #learn({ k: told, held_long, at }: ToldRow): void {
    const oldest: Record<number, number> = JSON.parse(held_long ?? '{}')
    const heldSince = this.#heldSince
    const since = heldSince.idAt(at)
    for (const k of numbersOf(told) as number[]) {
      const long = oldest[k]
      heldSince.learn((this.counters[k - 1] as Asked).key, long === undefined ? since : heldSince.idAt(long))
    }
  }
}

function markMissing(answers: Told[], counters: readonly Asked[], { k, missing }: ToldRow): void {
  const told = new Set(numbersOf(k))
  const numbers = missing === undefined ? counters.map((_, i) => i + 1).filter(n => !told.has(n)) : numbersOf(missing)
  for (const n of numbers) for (const place of (counters[(n as number) - 1] as Asked).places) answers[place] = OUTDATED
}

function answerEach(answers: Told[], wishes: readonly Wish[], counters: readonly Asked[], row: ToldRow): void {
  const moved = numbersOf(row.moved)
  const counted = numbersOf(row.counted ?? null)
  const dead = numbersOf(row.dead)
  const limits = numbersOf(row.limit_amount)
  const used = numbersOf(row.used_amount)
  const reserved = numbersOf(row.reserved_amount)
  const starts = numbersOf(row.period_start)
  const ends = numbersOf(row.period_end)
  const letIn = row.let_in === undefined ? undefined : new Set(numbersOf(row.let_in))
  const at = row.at
  numbersOf(row.k).forEach((k, i) => {
    const { sum, first, places } = counters[(k as number) - 1] as Asked
    const isCounted = (moved[i] ?? null) !== null && counted[i] !== 0
    const period_end = ends[i] ?? null
    if (!isCounted && period_end !== null && period_end <= at) {
      for (const place of places) answers[place] = OUTDATED
      return
    }
    const total = moved[i] ?? null
    // It fits the row that was locked, but not the one in the statement's snapshot.
    if (total !== null && !isCounted) return
    const limit_amount = limits[i] as number
    const period_start = starts[i] as number
    let used_amount = used[i] as number
    let reserved_amount = reserved[i] as number
    let upto = 0
    for (let turn = 0; turn < places.length; turn++) {
      const place = places[turn] as number
      const { amount } = wishes[place] as Wish
      upto += amount
      const held = total !== null && (total === sum || (letIn === undefined ? upto <= total : letIn.has(first + turn)))
      if (held) {
        used_amount += amount
        reserved_amount += amount
      }
      if (held || dead[i] !== 1)
        answers[place] = { held, limit_amount, used_amount, reserved_amount, period_start, period_end, at }
    }
  })
}

function countersOf(wishes: readonly Wish[]): { counters: Asked[]; areAlike: boolean } {
  const known = new Map<string, Asked>()
  let areAlike = true
  for (let place = 0; place < wishes.length; place++) {
    const { userId, typeId, amount } = wishes[place] as Wish
    const key = counterKey(userId, typeId)
    const asked = known.get(key)
    if (asked === undefined)
      known.set(key, { key, userId, typeId, sum: amount, least: amount, first: 0, places: [place] })
    else {
      // A sum beyond the safe integers does not fit, and then each wish is looked at by itself.
      asked.sum += amount
      asked.places.push(place)
      if (amount === asked.least) continue
      areAlike = false
      asked.least = Math.min(asked.least, amount)
    }
  }
  const counters = [...known.values()]
  if (counters.length > 1) counters.sort(byUserAndType)
  let n = 1
  for (const asked of counters) {
    asked.first = n
    n += asked.places.length
  }
  return { counters, areAlike }
}

/** The order in which all statements lock counters. */
export const byUserAndType = (a: Pick<Asked, 'userId' | 'typeId'>, b: Pick<Asked, 'userId' | 'typeId'>): number =>
  a.userId === b.userId ? a.typeId - b.typeId : a.userId < b.userId ? -1 : 1

function valuesOf(wishes: readonly Wish[], counters: readonly Asked[]): string[] {
  const items: Wish[] = []
  const counterOf: number[] = []
  const upto: number[] = []
  for (let i = 0; i < counters.length; i++) {
    let sum = 0
    for (const place of (counters[i] as Asked).places) {
      const wish = wishes[place] as Wish
      sum += wish.amount
      items.push(wish)
      counterOf.push(i + 1)
      upto.push(sum)
    }
  }
  return [
    textArray(counters.map(({ userId }) => userId)),
    intArray(counters.map(({ typeId }) => typeId)),
    intArray(counters.map(({ sum }) => sum)),
    intArray(counters.map(({ least }) => least)),
    uuidArray(items.map(({ id }) => id)),
    intArray(items.map(({ amount }) => amount)),
    intArray(items.map(({ leaseMs }) => leaseMs)),
    intArray(counterOf),
    intArray(upto)
  ]
}
