// Follows the advice for operators with millions of log rows, on a smaller log.
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import Fastify from 'fastify'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { v7 } from 'uuid'
import { checkDatabase } from '../../src/cli/check-database.ts'
import quotaPlugin, { type QuotaOptions } from '../../src/index.ts'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { charge } from '../../src/store/charge/charge.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { setLevel } from '../../src/store/charge/set-level.ts'
import { voidCharges } from '../../src/store/charge/void.ts'
import { open } from '../../src/store/connection/connect.ts'
import type { Database, Values } from '../../src/store/database.ts'
import { Reservations } from '../../src/store/group/reservations.ts'
import { missingFromSchema } from '../../src/store/migration/check-schema.ts'
import { migrate } from '../../src/store/migration/migrate.ts'
import { deleteUser } from '../../src/store/operator/delete-user.ts'
import { exportUsage, type LogPosition, listUsage, type UsageFilter } from '../../src/store/operator/list-usage.ts'
import { findDiscrepancies } from '../../src/store/operator/reconcile.ts'
import { reportUsage } from '../../src/store/operator/report-usage.ts'
import { resetQuota } from '../../src/store/operator/reset-quota.ts'
import { viewStatistics } from '../../src/store/operator/view-statistics.ts'
import { forgetMarked } from '../../src/store/rollup/forget-rollups.ts'
import { rollUsage } from '../../src/store/rollup/roll-usage.ts'
import { lookAround, SafeTime } from '../../src/store/rollup/safe-time.ts'
import { pruneUsage } from '../../src/store/upkeep/prune-usage.ts'
import { retain } from '../../src/upkeep/retention.ts'
import { UsageRollups } from '../../src/upkeep/usage-rollups.ts'
import { bash, built } from '../fixtures/built.ts'
import { type Amounts, BY, costing, hold, standing, wanted } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { byHeader } from '../fixtures/metered.ts'
import { commandsOf, comparable, fences } from '../fixtures/page.ts'

const root = join(import.meta.dirname, '../..')
const page = await readFile(join(root, 'docs/large-logs.md'), 'utf8')
const pg = await server(t)

/** The only snippet in this language that contains this text. */
function snippet(language: string, text: string): string {
  const found = fences(page, language).filter(snippet => snippet.includes(text))
  if (found.length !== 1) throw new Error(`${found.length} snippets have '${text}'`)
  return found[0] as string
}

/** A database with our tables: our connection to it, and an operator's psql. */
async function fresh(t: Test): Promise<{ url: string; db: Database; psql: postgres.Sql }> {
  const url = await pg.migrated()
  const db = await open(url)
  t.teardown(() => db.close())
  return { url, db, psql: psqlOf(t, url) }
}

function psqlOf(t: Test, url: string): postgres.Sql {
  const psql = postgres(url, { max: 3, onnotice: () => {} })
  t.teardown(() => psql.end())
  return psql
}

const DAY_MS = 86_400_000
const daysAgo = (days: number): Date => new Date(Date.now() - days * DAY_MS)
const noonOf = (day: Date): Date => new Date(Math.floor(day.getTime() / DAY_MS) * DAY_MS + DAY_MS / 2)

/** Writes log rows for seven users who have no counters, so that no counter can disagree with them. */
const write = (db: Database, rows: number, at: Date) =>
  db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
     SELECT 'user-' || (n % 7), t.id, 1, $2::timestamptz FROM generate_series(1, $1::int) n CROSS JOIN quota_types t`,
    [rows, at.toISOString()]
  )

const typeIdOf = async (db: Database, type: string): Promise<number> => (await wanted(db, { [type]: 1 }))[0]!.typeId

/** The usage of each of the last days according to statistics, newest last. */
async function usageByDay(db: Database, type: string, timeZone = 'UTC', days = 4): Promise<number[]> {
  const order = { typeId: await typeIdOf(db, type), days, interval: 'day', timeZone, topUsers: 3 } as const
  return (await viewStatistics(db, order)).series.map(({ usage }) => usage)
}

t.test('after a change by hand, reconcile --fix brings statistics in line with the log', async t => {
  const [{ url, db, psql }, { dir }] = await Promise.all([fresh(t), built(t)])
  await declareTypes(db, { calls: { limit: -1 } })
  await write(db, 1_500, noonOf(daysAgo(1)))
  await write(db, 999, noonOf(daysAgo(2)))
  const failures: unknown[] = []
  await new UsageRollups(db, error => failures.push(error)).keep()
  const rolled = await db.query<{ day: string }>(
    "SELECT to_char(day_start AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day FROM quota_rollups WHERE time_zone = 'UTC'"
  )
  t.strictSame(
    rolled.map(({ day }) => day),
    [daysAgo(1).toISOString().slice(0, 10)],
    'days with fewer than 1 000 rows are not added up'
  )
  t.strictSame(await usageByDay(db, 'calls'), [0, 999, 1_500, 0])

  await psql`UPDATE usage_logs SET amount = 2`
  t.strictSame(await usageByDay(db, 'calls'), [0, 1_998, 1_500, 0], 'an old sum for one day, the log for the other')
  for (const { command, language, answer } of commandsOf(page)) {
    const here = command.replace(/^npx fastify-quota/, 'node ../dist/cli/main.js')
    const { code, stdout } = await bash(`cd '${dir}' && ${here}`, { DATABASE_URL: url })
    t.equal(code, 0)
    t.equal(comparable(language, stdout), comparable(language, answer), command)
  }
  t.strictSame(await usageByDay(db, 'calls'), [0, 1_998, 3_000, 0])
  await new UsageRollups(db, error => failures.push(error)).keep()
  t.equal((await db.query('SELECT FROM quota_rollups')).length, 1, 'the day is added up again')
  t.strictSame(await usageByDay(db, 'calls'), [0, 1_998, 3_000, 0])
  t.strictSame(failures, [])
})

t.test('a process maintains sums for eight time zones: UTC and the last seven asked for', async t => {
  const { db } = await fresh(t)
  await declareTypes(db, { calls: { limit: -1 } })
  await write(db, 1_500, noonOf(daysAgo(1)))
  const rollups = new UsageRollups(db, error => t.fail(String(error)))
  const zones = [1, 2, 3, 4, 5, 6, 7, 8].map(hours => `Etc/GMT+${hours}`)
  for (const zone of zones) rollups.want(zone, 30)
  await rollups.keep()
  const kept = await db.query<{ zone: string }>('SELECT DISTINCT time_zone AS zone FROM quota_rollups ORDER BY 1')
  t.strictSame(
    kept.map(({ zone }) => zone),
    [...zones.slice(1), 'UTC']
  )
})

/** PostgreSQL's plan for reading a page of the log. */
async function planOf(psql: postgres.Sql, filter: UsageFilter, after?: LogPosition): Promise<string> {
  let asked: [string, Values] = ['', []]
  const ear = {
    query: async (text: string, values: Values = []) => {
      asked = [text, values]
      return []
    }
  }
  await listUsage(ear as unknown as Database, filter, { limit: 100, after })
  const [text, values] = asked
  const lines = await psql.unsafe(`EXPLAIN (COSTS OFF) ${text}`, [...values])
  return lines.map(line => line['QUERY PLAN']).join('\n')
}

const drizzleKitPush = (url: string) =>
  bash(`cd '${root}' && node node_modules/drizzle-kit/bin.cjs push < /dev/null`, { DATABASE_URL: url })

t.test('the suggested index lets a page of a rare endpoint or type be read without filter or sort', async t => {
  const { url, db, psql } = await fresh(t)
  await declareTypes(db, { calls: { limit: -1 }, rare: { limit: -1 } })
  const [typeId, often] = [await typeIdOf(db, 'rare'), await typeIdOf(db, 'calls')]
  await db.query(
    `INSERT INTO usage_logs (user_id, quota_type_id, amount, endpoint, created_at)
     SELECT 'user-' || (n % 7), CASE WHEN n % 500 = 0 THEN $1::int ELSE $2::int END, 1,
            CASE WHEN n % 500 = 0 THEN '/rare' ELSE '/often' END, now() - n * interval '1 second' FROM generate_series(1, 50000) n`,
    [typeId, often]
  )
  await psql`ANALYZE usage_logs`
  const after = { createdAt: new Date(), id: v7() }
  for (const [index, filter] of [
    ['usage_logs_endpoint_idx', { endpoint: '/rare' }],
    ['usage_logs_quota_type_id_idx', { typeId }]
  ] as const) {
    t.match(await planOf(psql, filter), 'Filter: ', 'without the index, other rows are read too')
    await psql.unsafe(snippet('sql', index))
    for (const plan of [await planOf(psql, filter), await planOf(psql, filter, after)]) {
      t.match(plan, `Index Scan Backward using ${index} on usage_logs`)
      t.notMatch(plan, /Sort|Filter: /)
    }
    t.equal((await listUsage(db, filter, { limit: 100 })).length, 100)
  }

  const indexes = async () => (await psql`SELECT FROM pg_indexes WHERE tablename = 'usage_logs'`).length
  t.equal(await migrate(db), 0)
  t.equal(await indexes(), 5, 'migrations keep the indexes')
  t.equal((await drizzleKitPush(url)).code, 0)
  t.equal(await indexes(), 3, 'a push drops them')
})

async function charged(db: Database, userId: string, amounts: Amounts, at?: Date): Promise<void> {
  for (const want of await wanted(db, amounts)) {
    const order = { userId, charges: [want], at, endpoint: '/a', metadata: {}, idempotencyKey: null }
    if (!(await charge(db, order)).admitted) throw new Error('denied')
  }
}

/** The report of the month that contains this instant. */
async function reportOf(db: Database, at: Date): Promise<string[]> {
  const lines: string[] = []
  for await (const { userId, type, used, calls, denials } of reportUsage(db, at.toISOString().slice(0, 7)))
    lines.push(`${userId} ${type}: ${used} used, ${calls} calls, ${denials} denials`)
  return lines
}

t.test('retention keeps the rows that counters sum up, and the usage in statistics and reports', async t => {
  const { url, db } = await fresh(t)
  const quotas = {
    months: { limit: -1 },
    years: { limit: -1, period: 'year' },
    ever: { limit: -1, period: 'never' },
    stored: { limit: 1e9, kind: 'level' }
  } as const
  let given: QuotaOptions = {}
  const real = Fastify()
  t.teardown(() => real.close())
  const app = {
    register: async (plugin: typeof quotaPlugin, options: QuotaOptions) => {
      given = options
      await real.register(plugin, { ...options, connection: url })
    }
  }
  const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor
  const run = new AsyncFunction('app', 'quotaPlugin', 'quotas', 'identify', snippet('js', 'retention'))
  await run(app, quotaPlugin, quotas, byHeader)
  await real.ready()
  t.strictSame(given.retention, { usageLogs: 400, denials: 90 })

  const [old, older] = [daysAgo(401), daysAgo(800)]
  await charged(db, 'alice', { months: 3, years: 3, ever: 3, stored: 3 }, older)
  await charged(db, 'alice', { months: 2, years: 2, ever: 2, stored: 2 }, old)
  await charged(db, 'alice', { months: 1, years: 1, ever: 1, stored: 1 })
  await db.query(
    `INSERT INTO quota_denials (user_id, quota_type_id, hour, denials)
     SELECT user_id, quota_type_id, date_trunc('hour', now() - days * interval '1 day'), 1 FROM quota_limits CROSS JOIN unnest(ARRAY[10, 91]) days`
  )
  await write(db, 1, old)
  const look = async () => [await usageByDay(db, 'months', 'UTC', 365), await usageByDay(db, 'stored', 'UTC', 365)]
  const before = await look()
  t.match((await reportOf(db, older)).join('\n'), 'alice years: 3 used, 1 calls, 0 denials')

  await retain(db, given.retention!, new AbortController().signal)
  const left = await db.query<{ line: string }>(
    `SELECT user_id || ' ' || type_key || ' ' || count(*) AS line FROM usage_logs u JOIN quota_types t ON t.id = u.quota_type_id
      GROUP BY user_id, type_key ORDER BY 1`
  )
  t.strictSame(
    left.map(({ line }) => line),
    ['alice ever 3', 'alice months 1', 'alice stored 3', 'alice years 1'],
    'all rows of running periods and of levels, and none of users who are gone'
  )
  t.strictSame(await look(), before, 'statistics are unchanged')
  t.strictSame(
    await reportOf(db, older),
    [
      'alice ever: 3 used, 1 calls, 0 denials',
      'alice months: 3 used, 0 calls, 0 denials',
      'alice stored: 3 used, 1 calls, 0 denials'
    ],
    'a report still knows how much was used in a month, but not how often'
  )
  t.equal((await db.query('SELECT FROM quota_denials')).length, 4)
  t.strictSame(await findDiscrepancies(db), [])
  t.strictSame(await violations(db), [])
})

const CATALOGUE = `
SELECT format('%s: %s %s', 'constraint', conname, pg_get_constraintdef(oid)) AS line FROM pg_constraint WHERE conrelid = 'usage_logs'::regclass
UNION ALL
SELECT replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') FROM pg_index WHERE indrelid = 'usage_logs'::regclass
UNION ALL
SELECT format('%s. %s %s, not null: %s, default: %s', a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = 'usage_logs'::regclass AND a.attnum > 0
 ORDER BY 1`

const catalogue = async (psql: postgres.Sql) => (await psql.unsafe(CATALOGUE)).map(({ line }) => line as string)

const MOVE = snippet('sql', 'PARTITION BY HASH').replace('-- GRANT', 'GRANT')

const QUOTAS = {
  calls: { limit: 100 },
  tokens: { limit: 1_000, period: 'day' },
  stored: { limit: 1e9, kind: 'level' }
} as const

/** A log with a history, seen by an application that does not own its tables (`db`) and by the operator who does (`owner`). */
async function partitioning(t: Test) {
  const { url, db: owner, psql } = await fresh(t)
  await psql.unsafe(`
    DO $$ BEGIN CREATE ROLE app_role LOGIN PASSWORD 'app'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app_role;`)
  const db = await open(url.replace('postgres:postgres@', 'app_role:app@'), { storeTimeoutMs: 2_000 })
  t.teardown(() => db.close())
  await declareTypes(owner, QUOTAS)
  for (let n = 0; n < 20; n++) {
    await charged(db, `user-${n}`, { calls: 3, tokens: 30, stored: 300 }, daysAgo(40))
    await charged(db, `user-${n}`, { calls: 2, tokens: 20, stored: 200 })
  }
  return { url, owner, db, psql }
}

/** Everything that can be read from the log. */
async function readings(db: Database) {
  const pages = []
  let after: LogPosition | undefined
  do {
    const rows = await listUsage(db, {}, { limit: 7, after })
    pages.push(...rows)
    after = rows.at(-1)
  } while (after !== undefined)
  const exported = []
  for await (const rows of exportUsage(db, {}, {})) exported.push(...rows)
  return {
    pages,
    exported,
    ofUser: await listUsage(db, { userId: 'user-3' }, { limit: 100 }),
    statistics: await usageByDay(db, 'tokens', 'Etc/UTC', 60),
    reports: [await reportOf(db, daysAgo(40)), await reportOf(db, new Date())],
    discrepancies: await findDiscrepancies(db)
  }
}

t.test('a log can be partitioned as documented, and everything keeps working', async t => {
  const { url, owner, db, psql } = await partitioning(t)
  const before = { catalogue: await catalogue(psql), ...(await readings(db)) }
  const store = new Reservations(db, 2_000)
  const reserveOf = async (userId: string, amounts: Amounts) => {
    const outcome = await store.reserve(userId, await wanted(db, amounts), 60_000)
    if (!outcome.admitted) throw new Error('denied')
    return outcome.charges
  }
  // Prepares the statements of the store while the table is not partitioned yet.
  await store.commit('early', costing(await reserveOf('early', { calls: 1 })), '/a')
  const early = await db.query<{ id: string }>("SELECT id::text AS id FROM usage_logs WHERE user_id = 'early'")
  await deleteUser(db, 'early', BY)
  t.equal(early.length, 1)
  const held = await reserveOf('user-1', { calls: 5 })

  const operator = await psql.reserve()
  const [upToCommit, rest] = MOVE.split(/^(?=COMMIT;)/m) as [string, string]
  await operator.unsafe(upToCommit)
  const [admitted, settled] = await Promise.allSettled([
    reserveOf('user-2', { calls: 1 }),
    store.commit('user-1', costing(held), '/a')
  ])
  t.match(admitted, { status: 'fulfilled' }, 'a reservation does not touch the log')
  t.match(settled, { status: 'rejected', reason: { code: 'FST_QUOTA_STORE' } }, 'nothing is charged during the move')
  await operator.unsafe(rest)
  operator.release()

  await t.test('nothing is lost or reads differently', async t => {
    t.strictSame({ catalogue: await catalogue(psql), ...(await readings(db)) }, before)
    const parts = await psql`SELECT tableoid::regclass::text AS part FROM usage_logs GROUP BY 1`
    t.ok(parts.length > 4, 'users are spread across partitions')
    t.equal((await psql`SELECT FROM pg_inherits WHERE inhparent = 'usage_logs'::regclass`).length, 8)
    t.strictSame(await missingFromSchema(db), [])
    t.equal(await migrate(owner), 0)
    t.strictSame(
      (await checkDatabase(db)).filter(({ state }) => state !== 'ok'),
      []
    )
  })

  await t.test('a charge that failed during the move can be repeated, and counts once', async t => {
    await store.commit('user-1', costing(held), '/a')
    t.strictSame(await standing(db, 'user-1', 'calls'), [7, 0, 93])
    // As a caller that got no answer repeats it.
    await store.commit('user-1', costing(held), '/a')
    await commit(db, 'user-1', costing(held), '/a')
    t.equal((await listUsage(db, { userId: 'user-1', endpoint: '/a' }, { limit: 100 }))[0]?.id, held[0]?.id)
    t.strictSame(await violations(db), [])
  })

  await t.test('everything that writes to the log still works', async t => {
    await charged(db, 'new', { calls: 1 })
    const moves = Array.from({ length: 30 }, async (_, n) => {
      const userId = `user-${n % 20}`
      await store.commit(userId, costing(await reserveOf(userId, { calls: 1 })), '/grouped')
    })
    await Promise.all(moves)
    const several = await hold(db, 'user-4', { calls: 5, tokens: 50 })
    await commit(db, 'user-4', costing(several, { tokens: 40 }), '/b')
    await commit(db, 'user-4', costing(several, { tokens: 40 }), '/b')
    const undone = await hold(db, 'user-5', { calls: 5, tokens: 50 })
    await commit(db, 'user-5', costing(undone), '/c')
    await voidCharges(db, 'user-5', undone)
    await store.release('user-5', await reserveOf('user-5', { calls: 1 }))
    const level = { type: 'stored', typeId: await typeIdOf(db, 'stored'), id: v7(), amount: 50, move: 'set' } as const
    await setLevel(db, { ...level, userId: 'user-6', endpoint: null, metadata: {}, idempotencyKey: null })
    await resetQuota(db, 'user-7', 'calls', BY)
    t.ok(await deleteUser(db, 'user-8', BY))
    const rows = async (filter: UsageFilter) => (await listUsage(db, filter, { limit: 100 })).length
    t.equal(await rows({ endpoint: '/grouped' }), 30 - 2, 'the rows of a deleted user are gone')
    t.equal(await rows({ endpoint: '/b' }), 2)
    t.equal(await rows({ endpoint: '/c' }), 0)
    t.equal(await rows({ userId: 'user-8' }), 0)
    t.strictSame(await findDiscrepancies(db), [])
    t.strictSame(await violations(db), [])
  })

  await t.test('the daily sums match the log, even after the oldest rows are deleted', async t => {
    const same = async () => t.strictSame(await usageByDay(db, 'tokens'), await usageByDay(db, 'tokens', 'Etc/UTC'))
    const roll = async () => {
      const safe = new SafeTime()
      await lookAround(db, safe)
      await lookAround(db, safe)
      await forgetMarked(db)
      t.ok(await rollUsage(db, 'UTC', safe, { fewest: 1 }))
    }
    await roll()
    t.ok((await db.query('SELECT FROM quota_usage_days')).length > 0)
    await same()
    t.match(await pruneUsage(db, daysAgo(39)), { deleted: 2 * 19, next: undefined })
    await same()
    await roll()
    await same()
    t.strictSame(await findDiscrepancies(db), [])
    t.strictSame(await violations(db), [])
  })

  await t.test('one user is read from one partition, and a page of all is merged without sorting', async t => {
    await psql`INSERT INTO usage_logs (user_id, quota_type_id, amount, created_at)
               SELECT 'many-' || n % 500, 1, 0, now() - n * interval '1 second' FROM generate_series(1, 40000) n`
    await psql`ANALYZE usage_logs`
    const [ofAll, ofUser] = [await planOf(psql, {}), await planOf(psql, { userId: 'many-3' })]
    t.match(ofAll, 'Merge Append')
    t.notMatch(ofAll, /^ *(-> {2})?Sort$/m)
    t.equal(new Set(ofUser.match(/usage_logs_\d/g)).size, 1)
    await psql`DELETE FROM usage_logs WHERE user_id LIKE 'many-%'`
  })

  await t.test('indexes must be created without CONCURRENTLY, and columns can be added and dropped', async t => {
    const mine = snippet('sql', 'usage_logs_endpoint_idx')
    await t.rejects(psql.unsafe(mine), { code: '0A000' })
    await psql.unsafe(mine.replace('CONCURRENTLY ', ''))
    await psql`ALTER TABLE usage_logs ADD COLUMN later text`
    await charged(db, 'user-9', { calls: 1 })
    await psql`ALTER TABLE usage_logs DROP COLUMN later`
  })

  await t.test('a push fails with the documented error, and changes nothing', async t => {
    const look = async () => [await psql`SELECT count(*) FROM usage_logs`, await catalogue(psql)]
    const before = await look()
    const { stdout, stderr } = await drizzleKitPush(url)
    const said = /`(relation [^`]+)`/.exec(page)?.[1] as string
    t.match(`${stdout}${stderr}`, said)
    t.strictSame(await look(), before)
  })
})

t.test('a log that cannot be partitioned stays as it was', async t => {
  const { psql, db } = await partitioning(t)
  const before = { catalogue: await catalogue(psql), ...(await readings(db)) }
  const isRefused = async (code: string) => {
    const operator = await psql.reserve()
    await t.rejects(operator.unsafe(MOVE), { code })
    await operator.unsafe('ROLLBACK')
    operator.release()
    t.strictSame({ catalogue: await catalogue(psql), ...(await readings(db)) }, before)
  }
  const reader = await psql.reserve()
  await reader.unsafe('BEGIN; SELECT FROM usage_logs')
  await isRefused('55P03')
  await reader.unsafe('COMMIT; CREATE VIEW mine AS SELECT * FROM usage_logs')
  reader.release()
  await isRefused('2BP01')
})

t.test('links to files that exist', async t => {
  for (const [, target] of page.matchAll(/\]\((?!https?:)([^)#]+)/g))
    t.ok(existsSync(join(root, 'docs', target as string)), String(target))
})
