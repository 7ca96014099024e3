import t from 'tap'
import { isAmount, isLimit } from '../../src/quota/amount.ts'

t.test('takes whole numbers from 0 to 2^53−1, and nothing else', async t => {
  for (const value of [0, 1, Number.MAX_SAFE_INTEGER]) t.equal(isAmount(value), true, String(value))
  for (const value of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, '1', null, true, [5], 1n])
    t.equal(isAmount(value), false, String(value))
})

t.test('takes −1 as a limit: unlimited', async t => {
  t.equal(isLimit(-1), true)
  t.equal(isLimit(-2), false)
})
