import t from 'tap'
import { chargeId, leastIdAt } from '../../../src/store/charge/charge-id.ts'
import { counterKey, HeldSince } from '../../../src/store/charge/held-since.ts'

const LEAST_ID = '00000000-0000-0000-0000-000000000000'
const MINUTE = 60_000

t.test('no id of an instant or a later one is before its least id', async t => {
  const before = leastIdAt(Date.now() + 1)
  const ids = Array.from({ length: 100 }, chargeId)
  const after = leastIdAt(Date.now() + 2)
  t.ok(ids.every(id => id >= leastIdAt(Date.now() - MINUTE)))
  t.ok(ids.every(id => id < after))
  t.ok(before < after)
  t.match(before, /^[0-9a-f]{8}-[0-9a-f]{4}-7000-0000-000000000000$/)
})

t.test('of a counter that nothing is known of, all is looked at', async t => {
  t.equal(new HeldSince(900).of(counterKey('alice', 1)), LEAST_ID)
})

t.test(
  'an id that was made as long ago as a request waits, by a clock that is 3 s behind, is not passed over',
  async t => {
    const [waitsMs, behindMs] = [900, 3_000]
    const now = Date.now()
    const since = new HeldSince(waitsMs).idAt(now)
    t.ok(since <= leastIdAt(now - waitsMs - behindMs))
    t.ok(since > leastIdAt(now - MINUTE))
  }
)

t.test('where the clocks of all processes are behind that of the database, it goes by theirs', async t => {
  t.ok(new HeldSince(900).idAt(Date.now() + MINUTE) <= chargeId())
})

t.test('an instant may have a fraction, and be the first of all', async t => {
  const heldSince = new HeldSince(900)
  t.equal(heldSince.idAt(1_764_230_000_000.75), heldSince.idAt(1_764_230_000_000))
  t.equal(heldSince.idAt(1), '00000000-0000-7000-0000-000000000000')
  t.equal(heldSince.idAt(Number.NaN), LEAST_ID)
})

t.test('for several counters of a user, it is the first of theirs', async t => {
  const heldSince = new HeldSince(900)
  const [first, later] = [heldSince.idAt(Date.now() - MINUTE), heldSince.idAt(Date.now())]
  heldSince.learn(counterKey('alice', 1), later)
  heldSince.learn(counterKey('alice', 2), first)
  heldSince.learn(counterKey('bob', 3), first)
  t.equal(heldSince.ofAll('alice', [{ typeId: 1 }, { typeId: 2 }]), first)
  t.equal(heldSince.ofAll('alice', [{ typeId: 1 }]), later)
  t.equal(heldSince.ofAll('alice', [{ typeId: 1 }, { typeId: 3 }]), LEAST_ID)
  t.equal(heldSince.ofAll('alice', []), LEAST_ID)
})

t.test('keeps ten thousand counters, and forgets the one that it learnt first', async t => {
  const heldSince = new HeldSince(900)
  const id = heldSince.idAt(Date.now())
  const keys = Array.from({ length: 10_000 }, (_, i) => counterKey(`user-${i}`, 1))
  for (const key of keys) heldSince.learn(key, id)
  heldSince.learn(keys[0]!, id)
  t.equal(heldSince.of(keys[0]!), id)
  heldSince.learn(counterKey('one more', 1), id)
  t.strictSame(
    [keys[0]!, keys[1]!, counterKey('one more', 1)].map(key => heldSince.of(key)),
    [LEAST_ID, id, id]
  )
})
