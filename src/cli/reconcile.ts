// fastify-quota reconcile: counters that are not the sum of their log rows and reservations.
import { requireReady } from '../store/connect-server.ts'
import { type Discrepancy, findDiscrepancies } from '../store/reconcile.ts'
import type { Command } from './command.ts'
import { CONNECTION_FLAGS, openTarget, readTarget, requireEmbedded } from './connection.ts'
import { table } from './table.ts'

export const reconcile: Command = {
  name: 'reconcile',
  description: `Prints every counter, of running and of closed periods, that is not the sum of its period's usage_logs rows and its
open reservations. It reports only, and changes nothing. Exit code 0: there is none; 1: there are some.
It may run beside applications: one statement sees one moment.`,
  flags: {
    ...CONNECTION_FLAGS,
    json: { type: 'boolean', help: 'Print JSON: an array, empty when every counter is right.' }
  },
  async run(values, print) {
    const target = readTarget(values)
    requireEmbedded(target)
    const db = await openTarget(target)
    try {
      await requireReady(db)
      const found = await findDiscrepancies(db)
      print(values.json === true ? JSON.stringify(found.map(document), null, 2) : describe(found))
      return found.length === 0 ? 0 : 1
    } finally {
      await db.close()
    }
  }
}

const document = (d: Discrepancy) => ({
  user_id: d.userId,
  quota_type: d.type,
  period_start: d.periodStart.toISOString(),
  used_amount: d.usedAmount,
  reserved_amount: d.reservedAmount,
  logged: d.logged,
  held: d.held
})

function describe(found: readonly Discrepancy[]): string {
  if (found.length === 0) return 'Every counter is the sum of its log rows and reservations.'
  const rows = found.map(d => [
    d.userId,
    d.type,
    d.periodStart.toISOString(),
    d.usedAmount,
    d.logged + d.held,
    d.reservedAmount,
    d.held
  ])
  const head = ['USER', 'TYPE', 'PERIOD FROM', 'USED_AMOUNT', 'SHOULD BE', 'RESERVED_AMOUNT', 'SHOULD BE']
  return `${table([head, ...rows])}\n\n${found.length === 1 ? '1 counter is' : `${found.length} counters are`} not the sum of log rows and reservations.`
}
