import t from 'tap'
import { isAmount, isLimit, shown } from '../../src/quota/amount.ts'

t.test('accepts whole numbers from 0 to 2^53−1 as amounts, and nothing else', async t => {
  for (const value of [0, 1, Number.MAX_SAFE_INTEGER]) t.equal(isAmount(value), true, String(value))
  for (const value of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, '1', null, true, [5], 1n])
    t.equal(isAmount(value), false, String(value))
})

t.test('accepts −1 as a limit, which means unlimited', async t => {
  t.equal(isLimit(-1), true)
  t.equal(isLimit(-2), false)
})

t.test('shows in a message whatever was given instead of an amount', async t => {
  const cases: [unknown, string][] = [
    [-1, '-1'],
    ['5', '5'],
    [null, 'null'],
    [undefined, 'undefined'],
    [Symbol('five'), 'Symbol(five)'],
    [[5], '[object Array]'],
    [Object.create(null), '[object Object]'],
    [{ toString: 5, valueOf: 5 }, '[object Object]']
  ]
  for (const [value, text] of cases) t.equal(shown(value), text)
})
