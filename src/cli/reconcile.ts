// fastify-quota reconcile: counters that are not the sum of their log rows and reservations, reported or repaired.
import { requireReady } from '../store/connection/connect-server.ts'
import type { Database } from '../store/database.ts'
import { type Fix, fixCounters } from '../store/operator/fix-counter.ts'
import { type Discrepancy, findDiscrepancies } from '../store/operator/reconcile.ts'
import { forgetRollups } from '../store/rollup/forget-rollups.ts'
import { type Command, text, UsageError, type Values } from './command.ts'
import { CONNECTION_FLAGS, readTarget, requireEmbedded, withTarget } from './connection.ts'
import { table } from './table.ts'

const ACTOR = 'fastify-quota reconcile'

export const reconcile: Command = {
  name: 'reconcile',
  description: `Prints every counter, of current and closed periods, that is not the sum of its period's usage_logs rows and its
open reservations. Without --fix it changes nothing. Exit code 0: there are none; 1: there are some.
With --fix each is set to that sum: usage_logs and quota_reservations are trusted. Every repair has its row in
quota_audit_logs, written with it, and the sums that statistics are read from are rebuilt. Exit code 0: every counter is right
now; 1: some could not be repaired, and which.
Both may run beside applications: one statement sees one moment, and a counter is repaired under its lock.`,
  flags: {
    ...CONNECTION_FLAGS,
    fix: { type: 'boolean', help: 'Repair the counters. The log rows and reservations stay as they are.' },
    reason: { type: 'string', value: 'TEXT', help: 'The reason, for the audit log; with --fix.' },
    json: { type: 'boolean', help: 'Print JSON: an array, empty when every counter is right.' }
  },
  async run(values, print) {
    const reason = readReason(values)
    const target = readTarget(values)
    requireEmbedded(target)
    return await withTarget(target, async db => {
      await requireReady(db)
      const { documents, told, isRight } = values.fix === true ? await fix(db, reason) : await look(db)
      print(values.json === true ? JSON.stringify(documents, null, 2) : told)
      return isRight ? 0 : 1
    })
  }
}

/** As long as the admin routes allow. */
const MAX_REASON_LENGTH = 1000

function readReason(values: Values): string | null {
  const reason = text(values, 'reason')
  if (reason !== undefined && values.fix !== true)
    throw new UsageError('--reason says why counters are repaired; use it with --fix.')
  if (reason !== undefined && reason.length > MAX_REASON_LENGTH)
    throw new UsageError(`--reason must be a string of 1 to ${MAX_REASON_LENGTH} characters.`)
  return reason ?? null
}

interface Outcome {
  documents: unknown[]
  /** The same for people. */
  told: string
  /** Whether every counter is the sum that it must be. */
  isRight: boolean
}

const ALL_RIGHT = 'Every counter is the sum of its log rows and reservations.'

async function look(db: Database): Promise<Outcome> {
  const found = await findDiscrepancies(db)
  return { documents: found.map(document), told: describe(found), isRight: found.length === 0 }
}

async function fix(db: Database, reason: string | null): Promise<Outcome> {
  await forgetRollups(db)
  const fixes = await fixCounters(db, { actor: ACTOR, reason, requestId: null })
  return {
    documents: fixes.map(fixDocument),
    told: describeFixes(fixes),
    isRight: fixes.every(({ obstacle }) => obstacle === null)
  }
}

const document = (d: Discrepancy) => ({
  user_id: d.userId,
  quota_type: d.type,
  period_start: d.periodStart.toISOString(),
  used_amount: d.usedAmount,
  logged: d.logged,
  held: d.held
})

function fixDocument(f: Fix) {
  const { used_amount, ...rest } = document(f)
  const before = { used_amount }
  const after = f.obstacle === null ? { used_amount: f.logged + f.held } : before
  return { ...rest, before, after, obstacle: f.obstacle }
}

function describe(found: readonly Discrepancy[]): string {
  if (found.length === 0) return ALL_RIGHT
  const rows = found.map(d => [...placeOf(d), d.usedAmount, d.logged, d.held, d.logged + d.held])
  const head = [...PLACE, 'USED_AMOUNT', 'LOGGED', 'HELD', 'SHOULD BE']
  return `${table([head, ...rows])}\n\n${count(found.length, 'is', 'are')} not the sum of log rows and reservations.`
}

function describeFixes(fixes: readonly Fix[]): string {
  if (fixes.length === 0) return ALL_RIGHT
  const stuck = fixes.filter(({ obstacle }) => obstacle !== null).length
  const rows = fixes.map(f =>
    f.obstacle === null
      ? [...placeOf(f), `${f.usedAmount} → ${f.logged + f.held}`, f.logged, f.held]
      : [...placeOf(f), f.usedAmount, f.logged, f.held, `not repaired: ${f.obstacle}`]
  )
  const ends = [
    ...(stuck < fixes.length ? [`${count(fixes.length - stuck, 'was', 'were')} repaired.`] : []),
    ...(stuck > 0
      ? [`${count(stuck, 'was', 'were')} not repaired: correct the rows in usage_logs, and run this again.`]
      : [])
  ]
  return `${table([[...PLACE, 'USED_AMOUNT', 'LOGGED', 'HELD'], ...rows])}\n\n${ends.join('\n')}`
}

const PLACE = ['USER', 'TYPE', 'PERIOD FROM']
const placeOf = (d: Discrepancy) => [d.userId, d.type, d.periodStart.toISOString()]

const count = (n: number, is: string, are: string): string => (n === 1 ? `1 counter ${is}` : `${n} counters ${are}`)
