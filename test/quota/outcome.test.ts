import t from 'tap'
import { isSuccess } from '../../src/quota/outcome.ts'

t.test('charges 2xx, and nothing else', async t => {
  for (const status of [200, 201, 204, 206, 299]) t.equal(isSuccess(status), true, String(status))
  for (const status of [0, 100, 101, 199, 300, 304, 400, 402, 429, 499, 500, 503]) {
    t.equal(isSuccess(status), false, String(status))
  }
})
