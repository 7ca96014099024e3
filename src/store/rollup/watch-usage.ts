// The triggers that tell where the usage log was changed behind the rollups' back: a charge that came late, a user who was deleted, psql.
import { type Database, transaction } from '../database.ts'

/**
 * Who writes a row within this time of its `created_at` leaves no mark, so that a request's row costs a comparison. Rollups stay behind by
 * more than that.
 */
export const UNMARKED_MINUTES = 15

const isLate = (row: 'NEW' | 'OLD') => `${row}.created_at < clock_timestamp() - interval '${UNMARKED_MINUTES} minutes'`

const NAMES = ['inserted', 'updated', 'deleted', 'truncated'].map(event => `quota_usage_${event}`)

/** SQL: whether the triggers are there and switched on; without them only the log itself is right. */
export const IS_WATCHED = `(
  SELECT count(*) FROM pg_trigger g
   WHERE g.tgrelid = to_regclass('usage_logs') AND g.tgname IN (${NAMES.map(name => `'${name}'`).join(', ')}) AND g.tgenabled IN ('O', 'A')
) = ${NAMES.length}`

/** In the schema of the log, whoever writes there and wherever that one looks for tables. No `$1` in it, which some drivers would fill in. */
const MAKE = [
  `CREATE OR REPLACE FUNCTION quota_mark_usage() RETURNS trigger LANGUAGE plpgsql AS $mark$
DECLARE
  mark text := 'INSERT INTO %I.quota_usage_marks (at, transaction)
    SELECT to_timestamp(floor(extract(epoch FROM %L::timestamptz) / 900) * 900), pg_current_xact_id()::text::bigint ON CONFLICT DO NOTHING';
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    EXECUTE format('DELETE FROM %I.quota_rollups', TG_TABLE_SCHEMA);
    EXECUTE format('DELETE FROM %I.quota_usage_days', TG_TABLE_SCHEMA);
    EXECUTE format('DELETE FROM %I.quota_usage_hours', TG_TABLE_SCHEMA);
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN EXECUTE format(mark, TG_TABLE_SCHEMA, OLD.created_at); END IF;
  IF TG_OP <> 'DELETE' THEN EXECUTE format(mark, TG_TABLE_SCHEMA, NEW.created_at); END IF;
  RETURN NULL;
END
$mark$`,
  `CREATE TRIGGER quota_usage_inserted AFTER INSERT ON usage_logs FOR EACH ROW WHEN (${isLate('NEW')}) EXECUTE FUNCTION quota_mark_usage()`,
  `CREATE TRIGGER quota_usage_updated AFTER UPDATE ON usage_logs FOR EACH ROW WHEN (${isLate('NEW')} OR ${isLate('OLD')}) EXECUTE FUNCTION quota_mark_usage()`,
  `CREATE TRIGGER quota_usage_deleted AFTER DELETE ON usage_logs FOR EACH ROW WHEN (${isLate('OLD')}) EXECUTE FUNCTION quota_mark_usage()`,
  'CREATE TRIGGER quota_usage_truncated AFTER TRUNCATE ON usage_logs FOR EACH STATEMENT EXECUTE FUNCTION quota_mark_usage()'
]

/**
 * Makes the triggers where they are missing: `drizzle-kit push`, and an application's own migrations, do not know them. Rejects where this
 * may not be done: only the table's owner may.
 */
export async function watchUsage(db: Database): Promise<void> {
  if (await isWatched(db)) return
  await transaction(db, async query => {
    await query('SELECT pg_advisory_xact_lock(7310584209463)')
    // Who writes now is waited for, and whoever comes meanwhile waits too: not for long, and it is tried again.
    await query("SET LOCAL lock_timeout = '200ms'")
    await query('LOCK TABLE usage_logs IN SHARE ROW EXCLUSIVE MODE')
    const [found] = await query<{ watched: boolean }>(`SELECT ${IS_WATCHED} AS watched`)
    if (found?.watched) return
    for (const name of NAMES) await query(`DROP TRIGGER IF EXISTS ${name} ON usage_logs`)
    for (const statement of MAKE) await query(statement)
    // What was added up while nobody watched may be wrong.
    for (const table of ['quota_rollups', 'quota_usage_days', 'quota_usage_hours']) await query(`DELETE FROM ${table}`)
  })
}

async function isWatched(db: Database): Promise<boolean> {
  const [row] = await db.query<{ watched: boolean }>(`SELECT ${IS_WATCHED} AS watched`)
  return row?.watched ?? false
}
