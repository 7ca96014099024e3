// Adds the usage log up, by day and hour, so that statistics need not read it. It stays behind by some minutes, and is exact:
// what is changed in a time that is added up already leaves a mark, and is read from the log until it is added up anew.
import { type Series, seriesOf } from '../../quota/series.ts'
import { type Database, dateOf, instantArray, ms, transaction } from '../database.ts'
import { UNMARKED_MINUTES } from './mark-usage.ts'

/** As far as statistics look back, and a day more for what lies between two time zones. */
const MOST_DAYS = 366
/** More than goes unmarked, for a server's clock that is set back. */
const BEHIND_MS = (UNMARKED_MINUTES + 2) * 60_000
/** Some other process is at it: not an error, and not waited for. */
const LOCK = 'SELECT pg_try_advisory_xact_lock(7310584209462) AS mine'
/** A day with fewer rows is read from the log in half a millisecond. */
const FEWEST_ROWS = 1_000
/** A day of tens of millions of rows takes its time, and holds up nobody. */
const DEADLINE_MS = 10 * 60_000

/** A moment, and which transactions there were. A snapshot's xmax will not do: transactions beyond it may have begun already. */
interface Moment {
  at: number
  /** The oldest transaction that still ran. */
  oldest: bigint
  /** Our own, and so newer than all that had begun to write. */
  newest: bigint
}

const MOMENT = `
SELECT ${ms('now()')} AS at, pg_snapshot_xmin(pg_current_snapshot())::text AS oldest, pg_current_xact_id()::text AS newest,
       EXISTS (SELECT 1 FROM quota_usage_marks) AS marked`

/**
 * A row without a mark was written by a transaction that began to write less than UNMARKED_MINUTES after its `created_at`. Once all that
 * wrote at a moment have ended, whoever comes later marks what is older than that moment by so much: up to there, what can be seen is all.
 */
export class SafeTime {
  #noted: Moment | undefined
  #until = Number.NEGATIVE_INFINITY

  /** Milliseconds: nothing that is older can still come without a mark. */
  get until(): number {
    return this.#until
  }

  see(moment: Moment): void {
    if (this.#noted !== undefined && this.#noted.newest < moment.oldest) {
      this.#until = this.#noted.at - BEHIND_MS
      this.#noted = undefined
    }
    this.#noted ??= moment
  }
}

/** Whether there are marks. */
export async function lookAround(db: Database, safe: SafeTime): Promise<boolean> {
  const [row] = await db.query<{ at: number; oldest: string; newest: string; marked: boolean }>(MOMENT)
  const { at, oldest, newest, marked } = row!
  safe.see({ at: Number(at), oldest: BigInt(oldest), newest: BigInt(newest) })
  return marked
}

/** A day that has a mark is as if it had never been added up. */
const FORGET = `
WITH mark AS (
  DELETE FROM quota_usage_marks RETURNING at
), changed AS MATERIALIZED (
  SELECT r.time_zone, r.day_start, r.day_end FROM quota_rollups r
   WHERE EXISTS (SELECT 1 FROM mark m WHERE m.at >= r.day_start AND m.at < r.rolled_until)
), days AS (
  DELETE FROM quota_usage_days d USING changed c WHERE d.time_zone = c.time_zone AND d.day_start = c.day_start
), totals AS (
  DELETE FROM quota_usage_totals t USING changed c WHERE t.time_zone = c.time_zone AND t.start >= c.day_start AND t.start < c.day_end
)
UPDATE quota_rollups r SET rolled_until = r.day_start FROM changed c WHERE r.time_zone = c.time_zone AND r.day_start = c.day_start`

/** Takes the marks away, with what they speak of. */
export const forgetMarked = (db: Database): Promise<void> =>
  transaction(
    db,
    async query => {
      const [lock] = await query<{ mine: boolean }>(LOCK)
      if (lock?.mine) await query(FORGET)
    },
    DEADLINE_MS
  )

interface Day {
  start: Date
  end: Date
  hours: Date[]
}

const OLDEST = `SELECT ${ms('min(created_at)')} AS oldest FROM usage_logs`
const KNOWN = `SELECT ${ms('day_start')} AS day_start, ${ms('day_end')} AS day_end, ${ms('rolled_until')} AS rolled_until FROM quota_rollups WHERE time_zone = $1`

interface Rolling {
  /** Ends after the day it is at. */
  signal?: { readonly aborted: boolean }
  /** Days with fewer rows are read from the log as fast. */
  fewest?: number
}

/** Adds up what is safe and not added up yet, a day at a time, the newest first. False: another process was at it, and not all is done. */
export async function rollUsage(
  db: Database,
  timeZone: string,
  safe: SafeTime,
  { signal, fewest = FEWEST_ROWS }: Rolling = {}
): Promise<boolean> {
  const [log] = await db.query<{ oldest: number | null }>(OLDEST)
  if (typeof log?.oldest !== 'number') return true
  let isAll = true
  let rolled = 0
  for (const { day, until } of await daysToRoll(db, timeZone, daysUntil(safe.until, log.oldest, timeZone), safe)) {
    if (signal?.aborted) return false
    const isWorthIt = day.isBegun || (await countRows(db, day, fewest)) >= fewest
    if (!isWorthIt) continue
    if (await rollDay(db, timeZone, day, until)) rolled += 1
    else isAll = false
  }
  // Else a plan for an empty table is used until autovacuum comes by: it took four times as long.
  if (rolled > 1) await db.query('ANALYZE quota_usage_days')
  return isAll
}

/** Those that something is safe of and not added up. */
async function daysToRoll(db: Database, timeZone: string, days: readonly Day[], safe: SafeTime) {
  const known = await db.query<{ day_start: number; day_end: number; rolled_until: number }>(KNOWN, [timeZone])
  const rolledOf = new Map(known.map(day => [`${day.day_start} ${day.day_end}`, day.rolled_until]))
  return days.flatMap(day => {
    const [start, end] = [day.start.getTime(), day.end.getTime()]
    const rolled = rolledOf.get(`${start} ${end}`)
    const until = Math.min(end, lastHour(day.hours, safe.until))
    return (rolled ?? start) < until ? [{ day: { ...day, isBegun: rolled !== undefined }, until: new Date(until) }] : []
  })
}

async function countRows(db: Database, { start, end }: Day, most: number): Promise<number> {
  const [row] = await db.query<{ n: number }>(
    'SELECT count(*)::int AS n FROM (SELECT 1 FROM usage_logs WHERE created_at >= $1::timestamptz AND created_at < $2::timestamptz LIMIT $3) r',
    [start.toISOString(), end.toISOString(), most]
  )
  return row!.n
}

/** The newest first. */
function daysUntil(until: number, oldest: number, timeZone: string): Day[] {
  const days = Math.min(Math.ceil((until - oldest) / 86_400_000) + 1, MOST_DAYS)
  if (days < 1) return []
  const at = new Date(until)
  const byDay = seriesOf('day', days, timeZone, at)
  const byHour = seriesOf('hour', days, timeZone, at)
  return byDay.starts.map((start, i) => dayOf(start, byDay.starts[i + 1] ?? byDay.end, byHour)).reverse()
}

const dayOf = (start: Date, end: Date, { starts }: Series): Day => ({
  start,
  end,
  hours: starts.filter(hour => hour >= start && hour < end)
})

/** Where the last whole hour ends before an instant. */
const lastHour = (hours: readonly Date[], until: number): number =>
  until >= (hours.at(-1) as Date).getTime() + 3_600_000
    ? Number.POSITIVE_INFINITY
    : Math.max(...hours.map(hour => hour.getTime()).filter(hour => hour <= until))

/** A day that was cut differently when it was added up: the rules of the time zone have changed. */
const FORGET_OTHERS = `
WITH other AS (
  DELETE FROM quota_rollups r
   WHERE r.time_zone = $1 AND r.day_start < $3::timestamptz AND r.day_end > $2::timestamptz
     AND (r.day_start <> $2::timestamptz OR r.day_end <> $3::timestamptz)
  RETURNING r.day_start, r.day_end
), days AS (
  DELETE FROM quota_usage_days d USING other o WHERE d.time_zone = $1 AND d.day_start = o.day_start
)
DELETE FROM quota_usage_totals t USING other o WHERE t.time_zone = $1 AND t.start >= o.day_start AND t.start < o.day_end`

const BEGIN_DAY = `
INSERT INTO quota_rollups (time_zone, day_start, day_end, rolled_until) VALUES ($1, $2::timestamptz, $3::timestamptz, $2::timestamptz)
ON CONFLICT (time_zone, day_start) DO UPDATE SET day_end = excluded.day_end
RETURNING ${ms('rolled_until')} AS rolled_until`

/** $1 zone, $2 the day, $3 and $4 the span that is added, $5 the first instants of the day's hours: a SELECT, which is read once, and not for each row. */
const ROLL = `
WITH used AS MATERIALIZED (
  SELECT width_bucket(u.created_at, (SELECT $5::text::timestamptz[])) AS n, u.quota_type_id, u.user_id, sum(u.amount) AS usage, count(*) AS calls
    FROM usage_logs u
   WHERE u.created_at >= $3::timestamptz AND u.created_at < $4::timestamptz
   GROUP BY 1, 2, 3
), days AS (
  INSERT INTO quota_usage_days AS d (time_zone, day_start, quota_type_id, user_id, usage, calls)
  SELECT $1, $2::timestamptz, quota_type_id, user_id, sum(usage), sum(calls) FROM used GROUP BY quota_type_id, user_id
  ON CONFLICT (user_id, quota_type_id, time_zone, day_start)
  DO UPDATE SET usage = d.usage + excluded.usage, calls = d.calls + excluded.calls
), hours AS (
  INSERT INTO quota_usage_totals (time_zone, per, start, quota_type_id, usage, calls, users)
  SELECT $1, 'hour', ((SELECT $5::text::timestamptz[]))[n], quota_type_id, sum(usage), sum(calls), count(*) FROM used GROUP BY n, quota_type_id
)
UPDATE quota_rollups SET rolled_until = $4::timestamptz WHERE time_zone = $1 AND day_start = $2::timestamptz`

const TOTAL = `
INSERT INTO quota_usage_totals (time_zone, per, start, quota_type_id, usage, calls, users)
SELECT $1, 'day', $2::timestamptz, quota_type_id, sum(usage), sum(calls), count(*)
  FROM quota_usage_days WHERE time_zone = $1 AND day_start = $2::timestamptz GROUP BY quota_type_id
ON CONFLICT (time_zone, per, start, quota_type_id) DO UPDATE SET usage = excluded.usage, calls = excluded.calls, users = excluded.users`

const rollDay = (db: Database, timeZone: string, { start, end, hours }: Day, until: Date): Promise<boolean> =>
  transaction(
    db,
    async query => {
      const [lock] = await query<{ mine: boolean }>(LOCK)
      if (!lock?.mine) return false
      const day = [timeZone, start.toISOString(), end.toISOString()]
      await query(FORGET_OTHERS, day)
      const [rolled] = await query<{ rolled_until: number }>(BEGIN_DAY, day)
      const from = dateOf(rolled!.rolled_until)
      if (from >= until) return true
      await query(ROLL, [timeZone, start.toISOString(), from.toISOString(), until.toISOString(), instantArray(hours)])
      await query(TOTAL, [timeZone, start.toISOString()])
      return true
    },
    DEADLINE_MS
  )

/** Forgets days that no statistic looks back to. */
const PRUNE = `
WITH old AS (
  DELETE FROM quota_rollups r WHERE r.day_end < now() - interval '${MOST_DAYS + 2} days' RETURNING r.time_zone, r.day_start, r.day_end
), days AS (
  DELETE FROM quota_usage_days d USING old o WHERE d.time_zone = o.time_zone AND d.day_start = o.day_start
)
DELETE FROM quota_usage_totals t USING old o WHERE t.time_zone = o.time_zone AND t.start >= o.day_start AND t.start < o.day_end`

export async function pruneRollups(db: Database): Promise<void> {
  await db.query(PRUNE)
}

/** Forgets all that is added up: after the log was changed by somebody who leaves no marks. */
export const forgetRollups = (db: Database): Promise<void> =>
  transaction(
    db,
    async query => {
      for (const table of ['quota_rollups', 'quota_usage_days', 'quota_usage_totals'])
        await query(`DELETE FROM ${table}`)
    },
    DEADLINE_MS
  )
