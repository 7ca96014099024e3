// The guard: one UPDATE decides whether one user's charges fit, all or none, and deducts them.
import type { Balance } from '../../quota/balance.ts'
import { FST_QUOTA_STORE, type Violation } from '../../quota/errors.ts'
import { type Database, dateOf, instantOf, ms } from '../database.ts'
import { balanceOf, type CounterRow } from './counter-balance.ts'
import { ensureUser } from './ensure-user.ts'
import { expireReservations } from './expire-reservations.ts'
import { heldOf, heldSinceOf } from './held.ts'
import { counterKey, type HeldSince, isHeldLong, LEAST_ID } from './held-since.ts'
import { insistOnTypes } from './insist-on-types.ts'
import { openPeriods } from './open-period.ts'

/** One quota type and amount. */
export interface ChargeCost {
  typeId: number
  type: string
  amount: number
}

/** A cost with the id that its reservation and its log row will have. */
export interface WantedCharge extends ChargeCost {
  id: string
}

/** How a statement admits. */
interface Admitting {
  /** As a reservation, or charged at once. */
  hold: boolean
  /** Several charges are admitted all or none, so their counters are locked before any is changed; a single one needs only its guard. */
  several: boolean
}

/**
 * $1 user, $2 wanted charges, $3 the instant or null. Gives `clock`, `want`, `counter` and `admitted`.
 *
 * For one charge the guard stands in the UPDATE's own WHERE, where PostgreSQL evaluates it again on the newest row: under READ COMMITTED, a
 * guard in a sub-select alone let 81 through a limit of 50. `counter` is then read from the snapshot, and a refusal because the quota is
 * full takes no lock at all. An amount of 0 fits even where the limit was lowered below the usage. For several charges, the counters are
 * locked first, in one order, and `counter` has their newest rows: a guard in the WHERE as well would also be evaluated on the snapshot's
 * row, and drop from "all" a counter that was full until just now.
 */
export const admitting = ({ hold, several }: Admitting): string => `
  clock AS MATERIALIZED (
    SELECT coalesce($3::timestamptz, now()) AS at
  ), want AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($2::text::jsonb) AS w (id uuid, quota_type_id int, amount bigint, since uuid)
  ), counter AS MATERIALIZED (
    SELECT l.user_id, l.quota_type_id, l.limit_amount, l.used_amount, l.period_start, l.period_end, w.id, w.amount, w.since,
           w.amount = 0 OR l.used_amount + w.amount <= ${CEILING} AS fits,
           l.period_end IS NULL OR l.period_end > clock.at AS running
      FROM quota_limits l JOIN want w ON w.quota_type_id = l.quota_type_id CROSS JOIN clock
     WHERE l.user_id = $1
     ${several ? 'ORDER BY l.quota_type_id FOR UPDATE OF l' : ''}
  ), admitted AS (
    UPDATE quota_limits l
       SET used_amount = l.used_amount + c.amount,
           updated_at = clock.at
      FROM counter c CROSS JOIN clock
     WHERE l.user_id = $1
       AND l.quota_type_id = c.quota_type_id
       AND (SELECT count(*) FROM counter WHERE fits AND running) = (SELECT count(*) FROM want)
       ${several ? '' : `AND (c.amount = 0 OR l.used_amount + c.amount <= ${CEILING}) AND (l.period_end IS NULL OR l.period_end > clock.at)`}
    RETURNING c.id, c.amount, l.quota_type_id, l.limit_amount, l.used_amount,
              ${heldOf('l', 'l.user_id', 'c.since')}${hold ? ' + c.amount' : ''} AS reserved_amount, l.period_start, l.period_end,
              greatest(date_trunc('milliseconds', clock.at), l.period_start) AS admitted_at
  )`

/** Even an unlimited quota ends at JavaScript's largest safe integer. */
export const CEILING = `CASE WHEN l.limit_amount < 0 THEN ${Number.MAX_SAFE_INTEGER} ELSE l.limit_amount END`

/** What became of each wanted charge. */
export const ADMITTED_ROWS = `
  SELECT w.id,
         c.id IS NOT NULL AS found, coalesce(c.fits, false) AS fits, coalesce(c.running, false) AS running, a.id IS NOT NULL AS admitted,
         coalesce(a.limit_amount, c.limit_amount) AS limit_amount,
         coalesce(a.used_amount, c.used_amount) AS used_amount,
         coalesce(a.reserved_amount, h.amount) AS reserved_amount,
         CASE WHEN ${isHeldLong('h.oldest')} THEN ${ms('h.oldest')} END AS held_long,
         ${ms('coalesce(a.period_start, c.period_start)')} AS period_start,
         ${ms('CASE WHEN a.id IS NULL THEN c.period_end ELSE a.period_end END')} AS period_end,
         ${ms('a.admitted_at')} AS admitted_at, ${ms('clock.at')} AS at,
         a.id IS NULL AND EXISTS (SELECT 1 FROM quota_reservations r WHERE r.user_id = $1 AND r.expires_at <= clock.at) AS dead
    FROM want w CROSS JOIN clock LEFT JOIN counter c ON c.id = w.id LEFT JOIN admitted a ON a.id = w.id
   CROSS JOIN LATERAL ${heldSinceOf('c', 'c.since', '$1')} h`

interface AdmittedRow {
  id: string
  found: boolean
  fits: boolean
  running: boolean
  admitted: boolean
  limit_amount: number
  used_amount: number
  reserved_amount: number
  /** When the oldest was admitted of what has been held for long. */
  held_long: number | null
  period_start: number
  period_end: number | null
  admitted_at: number
  at: number
  dead: boolean
}

/** A charge that was admitted, with its balance afterwards. */
export class AdmittedCharge implements WantedCharge {
  readonly id: string
  readonly typeId: number
  readonly type: string
  readonly amount: number
  /** The period that admitted it. */
  readonly periodStart: Date
  readonly admittedAt: Date
  readonly balance: Balance

  constructor({ id, typeId, type, amount }: WantedCharge, admittedAt: Date, balance: Balance) {
    this.id = id
    this.typeId = typeId
    this.type = type
    this.amount = amount
    this.periodStart = balance.periodStart
    this.admittedAt = admittedAt
    this.balance = balance
  }
}

export type Admission = Admitted | { admitted: false; violations: Violation[]; balances: Balance[]; at: Date }

export class Admitted {
  readonly admitted = true
  readonly charges: AdmittedCharge[]
  readonly at: Date

  constructor(charges: AdmittedCharge[], at: Date) {
    this.charges = charges
    this.at = at
  }
}

export interface AdmissionOrder {
  userId: string
  charges: readonly WantedCharge[]
  /** The instant; default: the database's clock. */
  at?: Date | undefined
  /** Where what is held is summed up from, and what is learnt of it. By default, all is looked at. */
  heldSince?: HeldSince | undefined
}

/**
 * Runs a statement made of `admitting` and ADMITTED_ROWS. Nothing waits for a sweeper: where the charges do not fit, ended periods are
 * rolled over, the user's expired reservations released and a new user's counters opened, and the statement is run again.
 */
export async function admit(
  db: Database,
  text: string,
  order: AdmissionOrder,
  values: readonly (string | number | null)[] = []
): Promise<Admission> {
  for (let attempt = 1; ; attempt++) {
    const rows = await db.query<AdmittedRow>(text, [order.userId, wantOf(order), instantOf(order.at), ...values])
    const byId = new Map(rows.map(row => [row.id, row]))
    const pairs = order.charges.map(charge => [charge, byId.get(charge.id) as AdmittedRow] as const)
    learn(order, pairs)
    if (pairs.every(([, row]) => row.admitted)) {
      const charges = pairs.map(
        ([charge, row]) => new AdmittedCharge(charge, dateOf(row.admitted_at), balanceOf(charge.type, row))
      )
      return new Admitted(charges, dateOf(pairs[0]![1].at))
    }
    // Still missing although just opened: the user was deleted meanwhile, or the type no longer exists.
    const missing = missingOf(pairs)
    if (attempt > 1 && missing.length > 0) await insistOnTypes(db, missing)
    const freshened = attempt < ATTEMPTS && (await freshen(db, order, pairs))
    if (!freshened) return refusal(pairs)
  }
}

const wantOf = ({ userId, charges, heldSince }: AdmissionOrder): string =>
  JSON.stringify(
    charges.map(({ id, typeId, amount }) => {
      const since = heldSince?.of(counterKey(userId, typeId)) ?? LEAST_ID
      return { id, quota_type_id: typeId, amount, since }
    })
  )

function learn({ userId, heldSince }: AdmissionOrder, pairs: readonly Pair[]): void {
  if (heldSince === undefined) return
  for (const [{ typeId }, { held_long, at }] of pairs)
    heldSince.learn(counterKey(userId, typeId), heldSince.idAt(held_long ?? at))
}

/**
 * More than a new user, an ended period, an expired reservation, a race lost at the last unit and concurrent deletions of the user need
 * together. What ends the waiting is the request's deadline.
 */
const ATTEMPTS = 20

type Pair = readonly [WantedCharge, AdmittedRow]

const missingOf = (pairs: readonly Pair[]): WantedCharge[] =>
  pairs.filter(([, row]) => !row.found).map(([charge]) => charge)

/** Brings the user's rows up to date; false when there was nothing to do. */
async function freshen(db: Database, order: AdmissionOrder, pairs: readonly Pair[]): Promise<boolean> {
  const rows = pairs.map(([, row]) => row)
  if (missingOf(pairs).length > 0) {
    await ensureUser(
      db,
      order.userId,
      order.charges.map(c => c.typeId),
      order.at
    )
    return true
  }
  if (rows.some(row => !row.running)) {
    await openPeriods(db, order.userId, order.at)
    return true
  }
  // Everything fitted when it was read, but another request was faster: the next attempt tells by how much it does not fit.
  if (rows.every(row => row.fits)) return true
  if (!rows.some(row => row.dead)) return false
  // None left to release: somebody else is doing it now, so wait for the counters and look at the result.
  if ((await expireReservations(db, order.userId, order.at)) === 0) await db.query(WAIT, [order.userId])
  return true
}

const WAIT = 'SELECT 1 FROM quota_limits WHERE user_id = $1 ORDER BY quota_type_id FOR UPDATE'

/** The violated quotas, and the balances of all that was asked for. */
function refusal(pairs: readonly Pair[]): Admission & { admitted: false } {
  const violations = violationsOf(pairs)
  const balances = pairs.map(([charge, row]) => balanceOf(charge.type, row))
  return { admitted: false, violations, balances, at: dateOf(pairs[0]![1].at) }
}

function violationsOf(pairs: readonly Pair[]): Violation[] {
  const denied = pairs.filter(([, row]) => !row.fits)
  if (denied.length === 0 || missingOf(pairs).length > 0)
    throw new FST_QUOTA_STORE('the counters kept changing while they were read')
  return denied.map(pair => violationOf(...pair))
}

const violationOf = (charge: WantedCharge, row: CounterRow & { at: number }): Violation => ({
  ...balanceOf(charge.type, row),
  required: charge.amount,
  retryAfter: row.period_end === null ? null : Math.max(Math.ceil((Number(row.period_end) - Number(row.at)) / 1000), 1)
})

/** Whether this much more fits. */
export const fits = (amount: number, { limit_amount, used_amount }: CounterRow): boolean =>
  amount === 0 || used_amount + amount <= (limit_amount < 0 ? Number.MAX_SAFE_INTEGER : limit_amount)

/** For several charges that do not all fit, each of the counter whose row is at its place. */
export function refusalOfSeveral(
  charges: readonly WantedCharge[],
  rows: readonly (CounterRow & { at: number })[]
): Admission & { admitted: false } {
  const pairs = charges.map((charge, i) => [charge, rows[i]!] as const)
  const violations = pairs.filter(([{ amount }, row]) => !fits(amount, row)).map(pair => violationOf(...pair))
  return {
    admitted: false,
    violations,
    balances: pairs.map(([{ type }, row]) => balanceOf(type, row)),
    at: dateOf(rows[0]!.at)
  }
}

/** For a single charge that does not fit. */
export const refusalOf = (charge: WantedCharge, row: CounterRow & { at: number }): Admission & { admitted: false } => ({
  admitted: false,
  violations: [violationOf(charge, row)],
  balances: [balanceOf(charge.type, row)],
  at: dateOf(row.at)
})
