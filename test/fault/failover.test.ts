import { createServer, connect as dial, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { server } from '../fixtures/database.ts'
import { RESERVATION_TTL_MS, suffer } from '../fixtures/fault.ts'
import { demote, directoryOf, standbyOf } from '../fixtures/standby.ts'
import { target } from '../fixtures/target.ts'

const FLAGS = ['-c', 'fsync=off', '-c', 'max_connections=100']

async function pair(t: Test) {
  const primary = await server(t, FLAGS)
  const url = await primary.migrated()
  const database = new URL(url).pathname.slice(1)
  const standby = await standbyOf(t, primary)
  return { primary, standby, url, database }
}

const hostOf = (url: string): string => new URL(url).host

t.test('of several hosts the one that takes writes is found, and the new one after a failover', async t => {
  const { primary, standby, url, database } = await pair(t)
  // The standby comes first: it answers, but takes no writes.
  const hosts = `${hostOf(standby.url())},${hostOf(url)}`
  const connection = `postgres://postgres:postgres@${hosts}/${database}`
  const servers = await Promise.all(
    [connection, `${connection}?target_session_attrs=read-write`].map(connection =>
      target(t, { connection, reservationTtlMs: RESERVATION_TTL_MS })
    )
  )
  await suffer(
    t,
    { servers, replies: [], url: standby.url(database) },
    {
      begin: () => primary.instance.stop(),
      lastsMs: 1_000,
      end: () => standby.promote()
    }
  )
})

t.test('a new primary behind the same address is found, even if the old one came back as a standby', async t => {
  const { primary, standby, url, database } = await pair(t)
  const directory = await directoryOf(primary)
  let leadsTo = url
  const sockets = new Set<Socket>()
  const address = createServer(client => {
    const upstream = dial(Number(new URL(leadsTo).port), '127.0.0.1')
    client.pipe(upstream).pipe(client)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
  })
  await new Promise<void>(resolve => address.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    address.close()
    for (const socket of sockets) socket.destroy()
  })
  const { port } = address.address() as { port: number }
  const connection = `postgres://postgres:postgres@127.0.0.1:${port}/${database}`
  const servers = [await target(t, { connection, reservationTtlMs: RESERVATION_TTL_MS })]
  await suffer(
    t,
    { servers, replies: [], url: standby.url(database) },
    {
      begin: async () => {
        await primary.instance.stop()
        await demote(primary, directory)
        await standby.promote()
      },
      // Long enough for all connections to lead to the old one.
      lastsMs: 1_000,
      end: () => {
        leadsTo = standby.url()
      }
    }
  )
})
