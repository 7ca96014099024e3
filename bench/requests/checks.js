// What must be true of every run. Each gives what is wrong, in words.
import postgres from 'postgres'
import { open } from '../../dist/store/connection/connect.js'
import { findDiscrepancies } from '../../dist/store/operator/reconcile.js'
import { expectedOf, keepsLog, rowsEach } from './loads.js'

/** `asked`: all that was asked of these processes. */
export function wrongReplies(name, load, asked) {
  const expected = expectedOf(name, load)
  const errors = sum(asked, ({ errors }) => errors)
  const unexpected = asked.flatMap(({ statuses }) => [...statuses]).filter(([status]) => !expected.includes(status))
  return [
    ...(errors > 0 ? [`${errors} transport errors`] : []),
    ...unexpected.map(([status, count]) => `${count} replies with status ${status}`)
  ]
}

/** Who lets others past the limit is known, and shown; nobody else may. */
export function wrongAdmissions(name, { limit }, { admitted }) {
  const above = name === 'check-update-insert' ? [] : admitted.filter(count => count > limit)
  const below = name === 'quota' ? admitted.filter(count => count < limit) : []
  return [
    ...(above.length > 0
      ? [`${above.length} users got more than ${limit} 2xx, one of them ${Math.max(...above)}`]
      : []),
    ...(below.length > 0
      ? [`${below.length} users got fewer than ${limit} 2xx, one of them ${Math.min(...below)}`]
      : [])
  ]
}

/** Once the processes have ended. Those who are cut off at the end of a load may have been charged, and did not hear of it. */
export async function wrongRows(name, { url }, rowsBefore, asked) {
  if (!keepsLog(name)) return []
  const rows = (await countRows(name, url)) - rowsBefore
  const received = sum(asked, ({ statuses }) => statuses.get(200) ?? 0)
  const cut = sum(asked, ({ cut }) => cut)
  const each = rowsEach(name)
  return [
    ...(rows < each * received ? [`${rows} log rows for ${received} received 2xx`] : []),
    ...(rows > each * (received + cut) ? [`${rows} log rows for ${received} received 2xx and ${cut} cut off`] : []),
    ...(name.startsWith('quota') ? await wrongCounters(url) : [])
  ]
}

async function wrongCounters(url) {
  const over = await askOnce(url, 'SELECT count(*)::int AS n FROM quota_limits WHERE used_amount > limit_amount')
  const db = await open(url, { deadlineMs: 60_000 })
  const discrepancies = await findDiscrepancies(db).finally(() => db.close())
  return [
    ...(over > 0 ? [`${over} users above their limit`] : []),
    ...(discrepancies.length > 0
      ? [`${discrepancies.length} counters are not their sums, such as ${JSON.stringify(discrepancies[0])}`]
      : [])
  ]
}

export async function countRows(name, url) {
  if (!keepsLog(name)) return 0
  const table = name.startsWith('quota') ? 'usage_logs' : 'naive_logs'
  const isThere = await askOnce(url, `SELECT count(*)::int AS n FROM pg_class WHERE relname = '${table}'`)
  return isThere === 0 ? 0 : await askOnce(url, `SELECT count(*)::int AS n FROM ${table}`)
}

async function askOnce(url, text) {
  const sql = postgres(url, { max: 1 })
  const [row] = await sql.unsafe(text).finally(() => sql.end())
  return row.n
}

const sum = (items, figureOf) => items.reduce((total, item) => total + figureOf(item), 0)
