// The tables: what is kept, and the keys and checks that hold whatever the code above them does.
import { sql } from 'drizzle-orm'
import {
  type AnyPgColumn,
  bigint,
  boolean,
  check,
  date,
  foreignKey,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  uuid
} from 'drizzle-orm/pg-core'
import { amount, instant, isAmount, maxAmount } from './columns.ts'

export * from './rollup/tables.ts'

/** The quota types. Small; on Citus a reference table. */
export const quotaTypes = pgTable(
  'quota_types',
  {
    id: integer('id').primaryKey().generatedByDefaultAsIdentity(),
    typeKey: text('type_key').notNull().unique('quota_types_type_key_unique'),
    name: text('name').notNull(),
    description: text('description'),
    /** The base unit an amount counts: call, byte, token … */
    unit: text('unit').notNull().default('call'),
    /** `flow` starts again each period; `level` goes up and down and never resets. */
    kind: text('kind').$type<'flow' | 'level'>().notNull().default('flow'),
    /** When a flow starts again. A level ignores it. */
    period: text('period').$type<'hour' | 'day' | 'week' | 'month' | 'year' | 'never'>().notNull().default('month'),
    /** What a user gets on first sight; −1 is unlimited. */
    defaultLimit: amount('default_limit').notNull(),
    isActive: boolean('is_active').notNull().default(true),
    /** What the application's code declared last; a declaration that differs from it is applied, so that an operator's change survives a restart. */
    declared: jsonb('declared').$type<Record<string, unknown>>(),
    createdAt: instant('created_at').notNull().defaultNow(),
    updatedAt: instant('updated_at').notNull().defaultNow()
  },
  t => [
    check('quota_types_type_key_check', sql`${t.typeKey} ~ '^[a-z][a-z0-9_]{0,99}$'`),
    check('quota_types_kind_check', sql`${t.kind} IN ('flow', 'level')`),
    check('quota_types_period_check', sql`${t.period} IN ('hour', 'day', 'week', 'month', 'year', 'never')`),
    check('quota_types_default_limit_check', sql`${t.defaultLimit} BETWEEN -1 AND ${maxAmount}`)
  ]
)

/** Who is charged, and in which calendar. The application's own users live in its own table. */
export const quotaUsers = pgTable(
  'quota_users',
  {
    id: text('id').primaryKey(),
    email: text('email'),
    /** IANA name; the user's periods begin and end at this zone's midnights. */
    timeZone: text('time_zone').notNull().default('UTC'),
    /** The day from which the user's weeks, months and years are counted. Null: the calendar's. */
    periodAnchor: date('period_anchor', { mode: 'string' }),
    createdAt: instant('created_at').notNull().defaultNow()
  },
  t => [check('quota_users_id_check', sql`char_length(${t.id}) BETWEEN 1 AND 255 AND ${t.id} !~ '[[:cntrl:]]'`)]
)

/**
 * The counters: one row per user and type, for the running period. No CHECK says `used_amount <= limit_amount`: a limit may be lowered
 * below the usage, and work that cost more than was reserved is charged in full. The guard stands in the charging UPDATE.
 */
export const quotaLimits = pgTable(
  'quota_limits',
  {
    userId: text('user_id')
      .notNull()
      .references(() => quotaUsers.id, { onDelete: 'cascade' }),
    quotaTypeId: integer('quota_type_id')
      .notNull()
      .references(() => quotaTypes.id),
    /** −1 is unlimited. */
    limitAmount: amount('limit_amount').notNull(),
    /** All that is no longer available: charged and held. */
    usedAmount: amount('used_amount').notNull().default(0),
    /** @deprecated Servers from before 0004 write it. What is held is the sum of the open reservations; this column is never read. */
    reservedAmount: amount('reserved_amount').notNull().default(0),
    /**
     * What the last shared statement held: for that statement's own RETURNING, which before PostgreSQL 18 cannot tell by how much it moved a row
     * that it waited for (`group/hold-alike.ts`). Nothing else reads it.
     */
    lastHeldAmount: amount('last_held_amount').notNull().default(0),
    periodStart: instant('period_start').notNull(),
    /** Null: it never ends. */
    periodEnd: instant('period_end'),
    createdAt: instant('created_at').notNull().defaultNow(),
    updatedAt: instant('updated_at').notNull().defaultNow()
  },
  t => [
    primaryKey({ name: 'quota_limits_pkey', columns: [t.userId, t.quotaTypeId] }),
    check('quota_limits_limit_amount_check', sql`${t.limitAmount} BETWEEN -1 AND ${maxAmount}`),
    check('quota_limits_used_amount_check', isAmount(t.usedAmount)),
    check('quota_limits_period_check', sql`${t.periodEnd} > ${t.periodStart}`)
  ]
)

/** The foreign key of what belongs to a counter; deleting a user deletes it too. */
const ofCounter = (name: string, t: { userId: AnyPgColumn; quotaTypeId: AnyPgColumn }) =>
  foreignKey({
    name,
    columns: [t.userId, t.quotaTypeId],
    foreignColumns: [quotaLimits.userId, quotaLimits.quotaTypeId]
  }).onDelete('cascade')

/**
 * Every period a user has had. The running one is inserted empty when it opens, so that a statement which settles a
 * reservation of a period that has just closed finds the row in its snapshot.
 */
export const quotaPeriods = pgTable(
  'quota_periods',
  {
    userId: text('user_id').notNull(),
    quotaTypeId: integer('quota_type_id').notNull(),
    periodStart: instant('period_start').notNull(),
    periodEnd: instant('period_end'),
    /** The limit and the usage when it closed, including what was held; late work still moves the usage. */
    limitAmount: amount('limit_amount'),
    usedAmount: amount('used_amount').notNull().default(0),
    /** @deprecated As in `quota_limits`. */
    reservedAmount: amount('reserved_amount').notNull().default(0),
    /** Null while it runs. */
    closedAt: instant('closed_at'),
    /** When the first of its log rows was deleted for its age: since then, what was used is only recorded here. */
    prunedAt: instant('pruned_at')
  },
  t => [
    primaryKey({ name: 'quota_periods_pkey', columns: [t.userId, t.quotaTypeId, t.periodStart] }),
    ofCounter('quota_periods_counter_fk', t),
    check('quota_periods_used_amount_check', isAmount(t.usedAmount)),
    check('quota_periods_closed_check', sql`(${t.closedAt} IS NULL) = (${t.limitAmount} IS NULL)`)
  ]
)

/**
 * What running work holds: one row per charge, gone once it is charged or released. Its id becomes the log row's, which is the proof that
 * it was charged once. No index on `expires_at`: the table holds only what runs now, and the sweeper reads it whole. No foreign key:
 * checking it took an eighth of PostgreSQL's work for a request, and every insert here is made under the counter's lock. `deleteUser`
 * deletes a user's rows; what DELETE in psql leaves is deleted when the counter is opened again (`ensure-user.ts`), or expires.
 */
export const quotaReservations = pgTable(
  'quota_reservations',
  {
    userId: text('user_id').notNull(),
    id: uuid('id').notNull(),
    quotaTypeId: integer('quota_type_id').notNull(),
    amount: amount('amount').notNull(),
    /** The period that admitted it, and that it will be charged to, however late. */
    periodStart: instant('period_start').notNull(),
    /** When it was admitted: the `created_at` of its log row, which thus falls into the right period. */
    createdAt: instant('created_at').notNull(),
    expiresAt: instant('expires_at').notNull()
  },
  t => [
    primaryKey({ name: 'quota_reservations_pkey', columns: [t.userId, t.id] }),
    check('quota_reservations_amount_check', isAmount(t.amount)),
    check('quota_reservations_expires_at_check', sql`${t.expiresAt} > ${t.createdAt}`)
  ]
)

/**
 * What was charged, one row per charge. Negative amounts only on levels: what was given back. No foreign key: checking it took a tenth of
 * all PostgreSQL's work for a request, and every insert here is made under the lock of the counter or of a reservation, which `deleteUser`
 * takes before it deletes the user's rows. DELETE in psql leaves them.
 */
export const usageLogs = pgTable(
  'usage_logs',
  {
    userId: text('user_id').notNull(),
    /** A UUID that sorts by time; the reservation's, where there was one. */
    id: uuid('id').notNull().defaultRandom(),
    quotaTypeId: integer('quota_type_id').notNull(),
    amount: amount('amount').notNull(),
    /** The declared route (`/l3_detect/:patient/:date`), never the URL that was asked for. */
    endpoint: text('endpoint'),
    metadata: jsonb('metadata').$type<Record<string, unknown>>().notNull().default({}),
    /** When the charge was admitted. */
    createdAt: instant('created_at').notNull().defaultNow()
  },
  t => [
    primaryKey({ name: 'usage_logs_pkey', columns: [t.userId, t.id] }),
    index('usage_logs_created_at_idx').on(t.createdAt, t.id),
    index('usage_logs_user_id_created_at_idx').on(t.userId, t.createdAt, t.id),
    check('usage_logs_amount_check', sql`abs(${t.amount}) <= ${maxAmount}`)
  ]
)

/** The first answer to each idempotency key, for a day. */
export const quotaIdempotencyKeys = pgTable(
  'quota_idempotency_keys',
  {
    userId: text('user_id').notNull(),
    key: text('key').notNull(),
    quotaTypeId: integer('quota_type_id').notNull(),
    amount: amount('amount').notNull(),
    balance: jsonb('balance').$type<Record<string, unknown>>().notNull(),
    createdAt: instant('created_at').notNull().defaultNow()
  },
  t => [
    primaryKey({ name: 'quota_idempotency_keys_pkey', columns: [t.userId, t.key] }),
    ofCounter('quota_idempotency_keys_counter_fk', t),
    check('quota_idempotency_keys_key_check', sql`char_length(${t.key}) BETWEEN 1 AND 255`)
  ]
)

/** How often a user was refused: one row per user, type and hour, however often. */
export const quotaDenials = pgTable(
  'quota_denials',
  {
    userId: text('user_id').notNull(),
    quotaTypeId: integer('quota_type_id').notNull(),
    /** The hour's first instant, in UTC. */
    hour: instant('hour').notNull(),
    denials: bigint('denials', { mode: 'number' }).notNull()
  },
  t => [
    primaryKey({ name: 'quota_denials_pkey', columns: [t.userId, t.quotaTypeId, t.hour] }),
    ofCounter('quota_denials_counter_fk', t),
    index('quota_denials_quota_type_id_hour_idx').on(t.quotaTypeId, t.hour),
    check('quota_denials_denials_check', sql`${t.denials} > 0`)
  ]
)

/** Who changed what, when and why; written with the change. No foreign key: it outlives the user. */
export const quotaAuditLogs = pgTable(
  'quota_audit_logs',
  {
    /** Empty where the change was not to a user. */
    userId: text('user_id').notNull().default(''),
    id: uuid('id').notNull().defaultRandom(),
    actor: text('actor').notNull(),
    action: text('action').notNull(),
    quotaType: text('quota_type'),
    before: jsonb('before').$type<Record<string, unknown>>(),
    after: jsonb('after').$type<Record<string, unknown>>(),
    reason: text('reason'),
    requestId: text('request_id'),
    createdAt: instant('created_at').notNull().defaultNow()
  },
  t => [
    primaryKey({ name: 'quota_audit_logs_pkey', columns: [t.userId, t.id] }),
    index('quota_audit_logs_created_at_idx').on(t.createdAt, t.id),
    index('quota_audit_logs_user_id_created_at_idx').on(t.userId, t.createdAt, t.id)
  ]
)
