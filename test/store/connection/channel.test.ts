import { once } from 'node:events'
import { connect as dial, type Socket } from 'node:net'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { Hosts } from '../../../src/store/connection/hosts.ts'
import { Lane } from '../../../src/store/connection/lane.ts'
import { server } from '../../fixtures/database.ts'
import { proxy } from '../../fixtures/proxy.ts'

const pg = await server(t)

/** A lane through a network, whose connection tells when its socket fails. */
async function throughNetwork(t: Test, options: { max_pipeline?: number } = {}) {
  const network = await proxy(t, await pg.empty())
  let onError: (() => void) | undefined
  const socket = async ({ host: [host], port: [port] }: { host: string[]; port: number[] }): Promise<Socket> => {
    const socket = dial(port!, host!)
    await once(socket, 'connect')
    return socket.once('error', () => onError?.())
  }
  const settings = { max: 1, fetch_types: false, onnotice: () => {}, socket, ...options }
  const lane = new Lane(network.url, new Hosts([{}]), settings, {}, 4)
  t.teardown(() => lane.close())
  return {
    network,
    ask: (text: string) => lane.run(text, [], false, 20_000).then(rows => (rows as { is: unknown }[])[0]?.is),
    failed: () =>
      new Promise<void>(resolve => {
        onError = resolve
      })
  }
}

const RESET = { cause: { code: 'ECONNRESET' } }
const LOST = { cause: { code: 'CONNECTION_CLOSED' } }

for (const [state, running] of [
  ['an idle', []],
  ['a busy', ['SELECT pg_sleep(30)']]
] as const)
  for (const [when, length] of [
    ['later', 0],
    ['at once', 1_000]
  ] as const)
    t.test(
      `a statement to be written ${when} to ${state} connection that was reset fails, and later ones do not`,
      async t => {
        const { network, ask, failed } = await throughNetwork(t)
        await ask('SELECT 1 AS is')
        const cut = running.map(text => t.rejects(ask(text), RESET))
        await sleep(50)
        const failing = failed()
        network.cut()
        await failing
        // The error was told of; the socket has not closed.
        await turn()
        await t.rejects(ask(`SELECT 2 AS is /* ${'.'.repeat(length)} */`), LOST)
        await Promise.all(cut)
        for (const n of [3, 4, 5]) t.equal(await ask(`SELECT ${n} AS is`), n)
      }
    )

t.test('a statement that was not given to the connection that is lost runs on the next one, once', async t => {
  const { network, ask } = await throughNetwork(t, { max_pipeline: 1 })
  await ask('CREATE SEQUENCE numbers')
  const given = [1, 2].map(() => t.rejects(ask('SELECT pg_sleep(1)'), RESET))
  const others = [1, 2].map(() => ask("SELECT nextval('numbers')::int AS is"))
  await sleep(50)
  network.cut()
  await Promise.all(given)
  t.strictSame(await Promise.all(others), [1, 2])
  // Later than postgres.js would have opened the lost one again.
  await sleep(200)
  t.equal(await ask('SELECT last_value::int AS is FROM numbers'), 2)
  const there = 'SELECT count(*)::int AS is FROM pg_stat_activity WHERE datname = current_database()'
  // The server goes on with what it was sent.
  while ((await ask(`${there} AND state = 'active'`)) !== 1) await sleep(50)
  t.equal(await ask(there), 1, 'it leaves no connection behind')
})
