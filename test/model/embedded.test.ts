import t from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { embeddedDir } from '../fixtures/database.ts'
import { KEPT } from './fixtures/kept.ts'
import { liveAtRandom, lives } from './fixtures/lives.ts'
import { CLOCK_PATH, installClock } from './fixtures/shown-clock.ts'

/** A restart takes a second, and changes nothing in the model; after this many, restarts are skipped. */
const RESTARTS = 3

const dataDir = await embeddedDir(t)
let db = await start()
let restarts = 0
t.teardown(() => db.close())

async function start(): Promise<Database> {
  const started = await connect({ dataDir })
  await installClock(started)
  await started.query(`SET search_path = ${CLOCK_PATH}`)
  return started
}

const live = await lives({
  count: 1,
  process: () => db,
  restart: async () => {
    if (++restarts > RESTARTS) return
    await db.close()
    db = await start()
  }
})

for (const [title, commands] of Object.entries(KEPT)) t.test(title, () => live(commands))

t.test('whatever happens, the embedded engine answers and stores what the model does', t => liveAtRandom(t, live))
