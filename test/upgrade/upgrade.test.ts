// For each migration there is a tarball of the package from before it, which must keep serving while its database is migrated, and after.
import { readdir } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { open } from '../../src/store/connection/connect.ts'
import { MIGRATIONS_FOLDER, migrate } from '../../src/store/migration/migrate.ts'
import { server } from '../fixtures/database.ts'
import { PATIENT } from '../fixtures/fault.ts'
import { checkBooks } from '../fixtures/ledger.ts'
import { load, summary } from '../fixtures/load.ts'
import { run, unpackBefore } from '../fixtures/tarball.ts'
import { addServer, startServer, target } from '../fixtures/target.ts'

const RESERVATION_TTL_MS = 4_000

// Each test spends most of its time waiting.
t.jobs = 2
const pg = await server(t)
const migrations = (await readdir(MIGRATIONS_FOLDER)).filter(name => name.endsWith('.sql')).sort()

for (const migration of migrations.slice(1)) {
  t.test(`servers from before ${migration} keep serving while it is applied, and then beside new ones`, async t => {
    const home = await unpackBefore(t, migration)
    const url = await pg.empty()
    await run(home, process.execPath, 'dist/cli/main.js', 'init', '--schema-only', '--database-url', url)
    const file = await addServer(home)
    const options = { connection: url, reservationTtlMs: RESERVATION_TTL_MS }
    const before = await Promise.all([startServer(t, file, options), startServer(t, file, options)])
    const old = load(t, before, { clients: 8 })
    await old.recovered(before, 20_000)
    const db = await open({ url })
    t.teardown(() => db.close())
    const well = old.replies.length
    t.ok((await migrate(db)) > 0)
    const now = await target(t, { ...PATIENT, ...options })
    const fresh = load(t, [now], { clients: 8, replies: old.replies })
    await fresh.recovered([now], 20_000)
    await sleep(500)
    await Promise.all([old.stop(), fresh.stop()])
    const during = old.replies.slice(well)
    t.strictSame(
      during.filter(({ status }) => ![200, 402, 409].includes(status as number)),
      [],
      JSON.stringify(summary(during))
    )
    await checkBooks(t, db, { replies: old.replies, servers: [...before, now], reservationTtlMs: RESERVATION_TTL_MS })
  })
}
