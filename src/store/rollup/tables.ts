// The tables of the sums.
import { sql } from 'drizzle-orm'
import { bigint, check, index, integer, numeric, pgTable, text, uniqueIndex } from 'drizzle-orm/pg-core'
import { instant } from '../columns.ts'

/**
 * The days of a time zone that are already added up, each up to `rolled_until`; anything later is read from the log. A day with a row in
 * `quota_usage_marks` is read entirely from the log. Whoever changes the log by hand empties this table, and it is built again.
 *
 * These four tables have unique indexes as keys: `drizzle-kit push` may read the columns of a composite primary key back in another order,
 * and would recreate it. These indexes are the replica identities (`migrate.ts`).
 */
export const quotaRollups = pgTable(
  'quota_rollups',
  {
    /** IANA name, as it was asked for; `UTC/30 days` where 30 days are added up together, as one row. */
    timeZone: text('time_zone').notNull(),
    dayStart: instant('day_start').notNull(),
    dayEnd: instant('day_end').notNull(),
    /** The beginning of an hour of the day, or the day's end. */
    rolledUntil: instant('rolled_until').notNull()
  },
  t => [
    uniqueIndex('quota_rollups_key').on(t.timeZone, t.dayStart),
    check('quota_rollups_rolled_until_check', sql`${t.rolledUntil} BETWEEN ${t.dayStart} AND ${t.dayEnd}`)
  ]
)

/** The log of a day, added up by user and type. Like the log it has no foreign key. */
export const quotaUsageDays = pgTable(
  'quota_usage_days',
  {
    userId: text('user_id').notNull(),
    quotaTypeId: integer('quota_type_id').notNull(),
    timeZone: text('time_zone').notNull(),
    dayStart: instant('day_start').notNull(),
    usage: bigint('usage', { mode: 'number' }).notNull(),
    calls: bigint('calls', { mode: 'number' }).notNull()
  },
  t => [
    uniqueIndex('quota_usage_days_key').on(t.userId, t.quotaTypeId, t.timeZone, t.dayStart),
    /** The users who used most are at its end. */
    index('quota_usage_days_usage_idx').on(t.timeZone, t.quotaTypeId, t.dayStart, t.usage)
  ]
)

/** The log of a day or an hour, added up by type. */
export const quotaUsageTotals = pgTable(
  'quota_usage_totals',
  {
    timeZone: text('time_zone').notNull(),
    per: text('per').$type<'day' | 'hour'>().notNull(),
    start: instant('start').notNull(),
    quotaTypeId: integer('quota_type_id').notNull(),
    /** The sum of all users, which may exceed a bigint. */
    usage: numeric('usage').notNull(),
    calls: bigint('calls', { mode: 'number' }).notNull(),
    users: bigint('users', { mode: 'number' }).notNull()
  },
  t => [
    uniqueIndex('quota_usage_totals_key').on(t.timeZone, t.per, t.start, t.quotaTypeId),
    check('quota_usage_totals_per_check', sql`${t.per} IN ('day', 'hour')`)
  ]
)

/** Quarters of an hour in which a user's log was changed later than usual; one row per transaction, so that none waits for another. */
export const quotaUsageMarks = pgTable(
  'quota_usage_marks',
  {
    userId: text('user_id').notNull(),
    at: instant('at').notNull(),
    transaction: bigint('transaction', { mode: 'number' }).notNull()
  },
  t => [uniqueIndex('quota_usage_marks_key').on(t.userId, t.at, t.transaction)]
)
