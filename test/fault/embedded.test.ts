import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { connect } from '../../src/store/connection/connect.ts'
import { ROUNDS } from '../fixtures/fault.ts'
import { checkBooks } from '../fixtures/ledger.ts'
import { load, type Reply } from '../fixtures/load.ts'
import { target } from '../fixtures/target.ts'

const RESERVATION_TTL_MS = 1_000

t.test(
  'an embedded database whose process is killed while it writes opens again, with every charge that was answered',
  async t => {
    const dataDir = await mkdtemp(join(tmpdir(), 'quota-killed-'))
    t.teardown(() => rm(dataDir, { recursive: true, force: true }))
    const options = { connection: { dataDir }, reservationTtlMs: RESERVATION_TTL_MS }
    const replies: Reply[] = []
    for (let round = 0; round < ROUNDS + 1; round++) {
      const only = await target(t, options)
      const { recovered, stop } = load(t, [only], { replies })
      await recovered([only], 20_000)
      await sleep(Math.random() * 500)
      await only.kill()
      await stop()
    }
    const last = await target(t, options)
    const { recovered, stop } = load(t, [last], { replies, clients: 2 })
    await recovered([last], 20_000)
    await stop()
    // Its upkeep releases what the killed processes held.
    await sleep(2 * RESERVATION_TTL_MS)
    last.child.kill('SIGTERM')
    await new Promise(resolve => last.child.once('exit', resolve))
    const db = await connect({ dataDir })
    t.teardown(() => db.close())
    await checkBooks(t, db, { replies, servers: [], reservationTtlMs: RESERVATION_TTL_MS })
  }
)
