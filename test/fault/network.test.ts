import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { server } from '../fixtures/database.ts'
import { type Fault, RESERVATION_TTL_MS, suffer } from '../fixtures/fault.ts'
import { proxy } from '../fixtures/proxy.ts'
import { target } from '../fixtures/target.ts'

const pg = await server(t)
const url = await pg.migrated()
const network = await proxy(t, url)
// The same throughout: after an outage nothing has to be restarted.
const servers = await Promise.all(
  [1, 2].map(() => target(t, { connection: network.url, reservationTtlMs: RESERVATION_TTL_MS }))
)
const stage = { servers, replies: [], url }
const guarantee = (title: string, fault: Fault) => t.test(title, t => suffer(t, stage, fault))

guarantee('connections that are reset again and again cause 503s at worst, and no charge is lost or doubled', {
  async begin() {
    for (let i = 0; i < 8; i++) {
      network.cut()
      await sleep(100)
    }
  },
  lastsMs: 0,
  end: network.pass
})

guarantee('a connection that is cut between a statement and its answer neither loses nor doubles a charge', {
  async begin() {
    // Long enough for a statement of each, and short enough that some come through to be charged.
    for (let i = 0; i < 8; i++) {
      network.cutAnswers()
      await sleep(30)
      await network.pass()
      await sleep(150)
    }
  },
  lastsMs: 0,
  end: network.pass
})

for (const ms of [300, 700]) {
  guarantee(`a network that is ${ms} ms slower delays no request beyond 2 s, and service recovers afterwards`, {
    begin: () => network.delay(ms),
    lastsMs: 2_500,
    end: network.pass
  })
}

guarantee('a network that refuses connections for 2 s causes 503s at worst, and service recovers afterwards', {
  begin: network.refuse,
  lastsMs: 2_000,
  end: network.pass
})

guarantee('connections that go silent for good are given up, and service recovers once new ones work', {
  begin: network.silence,
  lastsMs: 3_000,
  end: network.pass,
  isLong: true
})
