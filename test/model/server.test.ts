import t from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { server } from '../fixtures/database.ts'
import { deadlocks } from '../fixtures/lock-waits.ts'
import { KEPT } from './fixtures/kept.ts'
import { liveAtRandom, lives } from './fixtures/lives.ts'
import { CLOCK_PATH, installClock } from './fixtures/shown-clock.ts'

const pg = await server(t)
const url = await pg.migrated()
const before = await connect({ url, max: 1 })
await installClock(before)
await before.query(`ALTER DATABASE ${new URL(url).pathname.slice(1)} SET search_path = ${CLOCK_PATH}`)
await before.close()

/** The processes that share the database: each has its own connections, and is restarted by itself. */
const start = () => connect({ url, max: 2 })
const processes = await Promise.all([start(), start(), start()])
t.teardown(() => Promise.all(processes.map(db => db.close())))

const live = await lives({
  count: processes.length,
  process: n => processes[n] as Database,
  restart: async n => {
    await processes[n]!.close()
    processes[n] = await start()
  }
})

for (const [title, commands] of Object.entries(KEPT)) t.test(title, () => live(commands))

t.test('whatever happens, even at the same time, PostgreSQL answers and stores what the model does', async t => {
  await liveAtRandom(t, live)
  t.equal(await deadlocks(processes[0] as Database), 0)
})
