import t, { type Test } from 'tap'
import { FST_QUOTA_STORE } from '../../../src/quota/errors.ts'
import { Hosts } from '../../../src/store/connection/hosts.ts'

const now = performance.now.bind(performance)
const pass = (t: Test, milliseconds: number) => t.intercept(performance, 'now', { value: () => now() + milliseconds })

const failed = (code: string) => new FST_QUOTA_STORE('it failed', { cause: Object.assign(new Error(code), { code }) })
const of = (...names: string[]) => new Hosts(names.map(name => ({ host: [name] })))

/** The names in the order in which they are asked, where each is left after this error. */
function asked(hosts: Hosts, error: Error, wasSent: boolean): (string | undefined)[] {
  const names = [hosts.address.host?.[0]]
  while (hosts.isElsewhere(error, hosts.generation, wasSent)) names.push(hosts.address.host?.[0])
  return names
}

t.test('where none is to be had they are tried one after the other, and again a second later', async t => {
  const hosts = of('one', 'two', 'three')
  t.strictSame(asked(hosts, failed('ECONNREFUSED'), false), ['one', 'two', 'three', 'one', 'two', 'three'])
  t.strictSame(asked(hosts, failed('57P03'), false), ['three'])
  pass(t, 1_001)
  t.strictSame(asked(hosts, failed('CONNECT_TIMEOUT'), false), ['three', 'one', 'two', 'three'])
})

t.test('one is left once, however many failed on it', async t => {
  const hosts = of('one', 'two')
  const { generation } = hosts
  for (let i = 0; i < 3; i++) t.ok(hosts.isElsewhere(failed('25006'), generation, true))
  t.strictSame(hosts.address, { host: ['two'] })
})

t.test('of one address only a server that takes no writes is left, once a second', async t => {
  const hosts = of('one')
  for (const code of ['ECONNREFUSED', '57P03']) t.strictSame(asked(hosts, failed(code), false), ['one'])
  t.strictSame(asked(hosts, failed('25006'), true), ['one', 'one'])
  t.equal(hosts.generation, 1)
})

t.test('none is left for what was sent, for a word about a statement, or for a late answer', async t => {
  const hosts = of('one', 'two')
  t.strictSame(asked(hosts, failed('ECONNRESET'), true), ['one'])
  for (const error of [failed('28P01'), failed('53300'), new FST_QUOTA_STORE('no answer within 900 ms')])
    t.strictSame(asked(hosts, error, false), ['one'])
})
