import t from 'tap'
import { validate, version } from 'uuid'
import { chargeId } from '../../../src/store/charge/charge-id.ts'

t.test('charge ids are version 7 UUIDs that begin with their time, ascend and never repeat', async t => {
  const before = Date.now()
  const ids = Array.from({ length: 10_000 }, chargeId)
  const after = Date.now()
  t.ok(ids.every(id => validate(id) && version(id) === 7))
  const times = ids.map(id => Number.parseInt(id.replace('-', '').slice(0, 12), 16))
  t.ok(times.every(time => time >= before && time <= after))
  t.strictSame(
    times,
    times.toSorted((a, b) => a - b)
  )
  t.equal(new Set(ids).size, ids.length)
})
