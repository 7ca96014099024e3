import t, { type Test } from 'tap'
import { FST_QUOTA_STORE } from '../../../src/quota/errors.ts'
import { Hosts } from '../../../src/store/connection/hosts.ts'

const now = performance.now.bind(performance)
const pass = (t: Test, milliseconds: number) => t.intercept(performance, 'now', { value: () => now() + milliseconds })

const failed = (code: string) => new FST_QUOTA_STORE('it failed', { cause: Object.assign(new Error(code), { code }) })
const of = (...names: string[]) => new Hosts(names.map(name => ({ host: [name] })))

/** The names of the hosts that are tried, in order, when each fails with this error. */
function asked(hosts: Hosts, error: Error, wasSent: boolean): (string | undefined)[] {
  const names = [hosts.address.host?.[0]]
  while (hosts.isElsewhere(error, hosts.generation, wasSent)) names.push(hosts.address.host?.[0])
  return names
}

t.test('hosts that cannot be reached are tried in turn, with at most one new round a second', async t => {
  const hosts = of('one', 'two', 'three')
  t.strictSame(asked(hosts, failed('ECONNREFUSED'), false), ['one', 'two', 'three', 'one', 'two', 'three'])
  t.strictSame(asked(hosts, failed('57P03'), false), ['three'])
  pass(t, 1_001)
  t.strictSame(asked(hosts, failed('CONNECT_TIMEOUT'), false), ['three', 'one', 'two', 'three'])
})

t.test('a host that is starting or stopping, or breaks the connection before a statement is sent, is left', async t => {
  for (const code of ['57P03', 'EPIPE']) {
    t.strictSame(asked(of('one', 'two'), failed(code), false), ['one', 'two', 'one', 'two'], code)
    t.strictSame(asked(of('one', 'two'), failed(code), true), ['one'], `${code}: it may have been carried out`)
  }
})

t.test('statements that fail together on one host move on by one host, not by one each', async t => {
  const hosts = of('one', 'two', 'three')
  const { generation } = hosts
  for (let i = 0; i < 3; i++) t.ok(hosts.isElsewhere(failed('25006'), generation, true))
  t.strictSame(hosts.address, { host: ['two'] })
})

t.test('a single host is tried again only if it takes no writes, at most once a second', async t => {
  const hosts = of('one')
  for (const code of ['ECONNREFUSED', '57P03']) t.strictSame(asked(hosts, failed(code), false), ['one'])
  t.strictSame(asked(hosts, failed('25006'), true), ['one', 'one'])
  t.equal(hosts.generation, 1)
})

t.test('stays with a host that drops a sent statement, refuses a login or connection, or is late', async t => {
  const hosts = of('one', 'two')
  t.strictSame(asked(hosts, failed('ECONNRESET'), true), ['one'])
  for (const error of [failed('28P01'), failed('53300'), new FST_QUOTA_STORE('no answer within 900 ms')])
    t.strictSame(asked(hosts, error, false), ['one'])
})

t.test('a statement that no connection took is tried again, without leaving the host', async t => {
  for (const hosts of [of('one'), of('one', 'two')]) {
    t.ok(hosts.isElsewhere(failed('CONNECTION_ENDED'), hosts.generation, false))
    t.notOk(hosts.isElsewhere(failed('CONNECTION_ENDED'), hosts.generation, true), 'a transaction that had begun')
    t.equal(hosts.generation, 0)
  }
})
