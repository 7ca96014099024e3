// The application's own sequences and enum types, in the database that `drizzle-kit push` is about to change.
//
// drizzle-kit filters tables by name, but takes every sequence and enum type of the schema `public` for ours, and drops what no
// schema file has. This is a schema file that has them, just as they are there: so it finds no difference, and lets them be. It
// wants them at once, by `require`, and a database answers later: hence a process that asks and prints them, which is this file too.
// CommonJS, because an ES module could not export as many as there are. drizzle-kit reads them a moment later: what the application
// makes in between is lost, and what it drops comes back.
const { execFileSync } = require('node:child_process')

// `owner` is the table that has the sequence for a serial or identity column.
const SEQUENCES = `
SELECT c.relname AS name, owner.relname AS owner, s.start_value AS "startWith", s.increment_by AS increment,
       s.min_value AS "minValue", s.max_value AS "maxValue", s.cache_size AS cache, s.cycle
  FROM pg_sequences s
  JOIN pg_namespace n ON n.nspname = s.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename
  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
                       AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  LEFT JOIN pg_class owner ON owner.oid = d.refobjid
 WHERE n.nspname = 'public'`

// Not those without a value, which drizzle-kit does not see either.
const ENUMS = `
SELECT t.typname AS name, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS values
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_enum e ON e.enumtypid = t.oid
 WHERE n.nspname = 'public' GROUP BY t.oid`

/** With the driver that drizzle-kit takes here: what reads a URL differently might reach another database, or none. */
async function read(connectionString) {
  const { Client } = require('pg')
  const client = new Client({ connectionString, connectionTimeoutMillis: 30_000 })
  await client.connect()
  const [sequences, enums] = [await client.query(SEQUENCES), await client.query(ENUMS)]
  await client.end()
  return { sequences: sequences.rows, enums: enums.rows }
}

/** An error's words alone: the rest of it may have the URL, with its password. A host of several addresses has an error for each. */
const wordsOf = error => error.errors?.map(wordsOf).join(', ') || error.message || error.code

function neighbours() {
  const { getTableName } = require('drizzle-orm')
  const { pgEnum, pgSequence } = require('drizzle-orm/pg-core')
  const { sequences, enums } = ask()
  // drizzle-kit knows which sequences our own columns have.
  const ours = Object.values(require('./src/store/schema.ts')).map(getTableName)
  return [
    ...sequences
      .filter(({ owner }) => !ours.includes(owner))
      .map(({ name, owner, ...options }) => pgSequence(name, options)),
    ...enums.map(({ name, values }) => pgEnum(name, values))
  ]
}

/** The process has DATABASE_URL from this one's environment: a command line can be seen by others. */
function ask() {
  try {
    const printed = execFileSync(process.execPath, [__filename], {
      stdio: ['ignore', 'pipe', 'inherit'],
      maxBuffer: Infinity
    })
    return JSON.parse(printed)
  } catch (error) {
    console.error(`Nothing is pushed: what else is in the database cannot be read: ${error.stdout || error.message}`)
    // What is thrown drizzle-kit prints, and exits with 0.
    process.exit(1)
  }
}

if (require.main === module) {
  read(process.env.DATABASE_URL).then(
    found => process.stdout.write(JSON.stringify(found)),
    error => process.stdout.write(wordsOf(error), () => process.exit(1))
  )
} else {
  module.exports = neighbours()
}
