import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import t, { type Test } from 'tap'
import { Hosts } from '../../../src/store/connection/hosts.ts'
import { Lane } from '../../../src/store/connection/lane.ts'
import { SharedLanes, SLOW_MS } from '../../../src/store/connection/shared-lanes.ts'
import { server } from '../../fixtures/database.ts'

const pg = await server(t)

type Run = Lane['run']

/** The lanes, and a lock that a statement can wait for. */
async function lanes(t: Test) {
  const url = await pg.empty()
  const lanes = new SharedLanes(
    statements => new Lane(url, new Hosts([{}]), { max: 1, onnotice: () => {} }, {}, statements)
  )
  const sql = postgres(url, { max: 1 })
  t.teardown(() => Promise.all([lanes.close(), sql.end()]))
  const ask = async (run: Run, text: string): Promise<number> => {
    const [row] = (await run(`SELECT pg_backend_pid() AS pid, ${text}`, [], false, 20_000)) as { pid: number }[]
    return row!.pid
  }
  const pidOf = (run: Run) => ask(run, '1')
  await sql`SELECT pg_advisory_lock(1)`
  return {
    lanes,
    pidOf,
    /** The shared connection. On a busy machine the first statement may be slow, which keeps both kinds apart for a while. */
    async shared() {
      for (;;) {
        const pid = await pidOf(lanes.runCharging)
        if ((await pidOf(lanes.runHolding)) === pid) return pid
        await sleep(200)
      }
    },
    /** Runs until the lock is released. */
    wait: (run: Run) => ask(run, 'pg_advisory_lock_shared(1)'),
    letGo: () => sql`SELECT pg_advisory_unlock(1)`,
    /** How many of these server processes there are. */
    areThere: async (pids: number[]) =>
      (await sql`SELECT 1 FROM pg_stat_activity WHERE pid = ANY (string_to_array(${pids.join()}, ',')::int[])`).length
  }
}

/** Long enough for a statement to count as slow. */
const whileSlow = () => sleep(SLOW_MS + 50)

t.test('statements that hold and statements that charge share a connection while they are quick', async t => {
  const { lanes: of, pidOf, wait, letGo, shared } = await lanes(t)
  const { runHolding, runCharging } = of
  const pid = await shared()
  const first = wait(runHolding)
  const others = [pidOf(runCharging), pidOf(runHolding), pidOf(runCharging)]
  await letGo()
  t.strictSame(await Promise.all([first, ...others]), [pid, pid, pid, pid])
})

t.test('a slow charge does not delay later statements, and both kinds stay apart for a while after it', async t => {
  const { lanes: of, pidOf, wait, letGo, shared } = await lanes(t)
  const both = await shared()
  const charge = wait(of.runCharging)
  await whileSlow()
  const apart = await pidOf(of.runHolding)
  t.not(apart, both)
  const spare = await pidOf(of.runSpareCharging)
  t.notOk([both, apart].includes(spare), 'another charge is on neither of them')
  await letGo()
  t.equal(await charge, both)
  t.equal(await pidOf(of.runHolding), apart, 'they stay apart')
  t.equal(await pidOf(of.runCharging), both)
})

t.test('while a statement that holds is slow, another one runs on a second connection', async t => {
  const { lanes: of, pidOf, wait, letGo, shared } = await lanes(t)
  const both = await shared()
  const held = wait(of.runHolding)
  await whileSlow()
  t.not(await pidOf(of.runSpareHolding), both)
  await letGo()
  t.equal(await held, both)
})

t.test('a statement that holds on its own connection has its spare on the shared one', async t => {
  const { lanes: of, pidOf, wait, letGo, shared } = await lanes(t)
  const both = await shared()
  const charge = wait(of.runCharging)
  await whileSlow()
  const held = wait(of.runHolding)
  const spare = pidOf(of.runSpareHolding)
  await letGo()
  t.not(await held, both)
  t.equal(await spare, both)
  t.equal(await charge, both)
})

t.test(
  'both kinds go apart after a slow statement even if nobody else came meanwhile, and later share again',
  async t => {
    const { lanes: of, pidOf, wait, letGo, shared } = await lanes(t)
    const both = await shared()
    const charge = wait(of.runCharging)
    await whileSlow()
    await letGo()
    t.equal(await charge, both)
    t.not(await pidOf(of.runHolding), both)
    t.equal(await shared(), both)
  }
)

t.test('close() ends all connections', async t => {
  const { lanes: of, pidOf, wait, letGo, shared, areThere } = await lanes(t)
  const both = await shared()
  const charge = wait(of.runCharging)
  await whileSlow()
  const pids = [both, await pidOf(of.runHolding), await pidOf(of.runSpareCharging)]
  await letGo()
  await charge
  t.equal(await areThere(pids), 3)
  await of.close()
  for (let tries = 0; tries < 200 && (await areThere(pids)) > 0; tries++) await sleep(10)
  t.equal(await areThere(pids), 0)
})
