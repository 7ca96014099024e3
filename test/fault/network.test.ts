import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { server } from '../fixtures/database.ts'
import { type Fault, RESERVATION_TTL_MS, suffer } from '../fixtures/fault.ts'
import { proxy } from '../fixtures/proxy.ts'
import { target } from '../fixtures/target.ts'

const pg = await server(t)
const url = await pg.migrated()
const network = await proxy(t, url)
// The same through all of it: after an outage nothing must be started again.
const servers = await Promise.all(
  [1, 2].map(() => target(t, { connection: network.url, reservationTtlMs: RESERVATION_TTL_MS }))
)
const stage = { servers, replies: [], url }
const guarantee = (title: string, fault: Fault) => t.test(title, t => suffer(t, stage, fault))

guarantee('connections that are reset again and again cost 503s, and no charge', {
  async begin() {
    for (let i = 0; i < 8; i++) {
      network.cut()
      await sleep(100)
    }
  },
  lastsMs: 0,
  end: network.pass
})

guarantee('a connection that is cut between a statement and its answer loses no charge, and none is done twice', {
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
  guarantee(`a network that is ${ms} ms slower holds no request for 2 s, and serves as before when it is not`, {
    begin: () => network.delay(ms),
    lastsMs: 2_500,
    end: network.pass
  })
}

guarantee('a network that refuses for 2 s costs 503s, and serves again when it does not', {
  begin: network.refuse,
  lastsMs: 2_000,
  end: network.pass
})

guarantee('a network that is silent for 3 s, and whose connections stay so, is given up and serves again', {
  begin: network.silence,
  lastsMs: 3_000,
  end: network.pass,
  isLong: true
})
