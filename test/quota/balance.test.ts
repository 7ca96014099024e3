import t from 'tap'
import { fits, remainingOf, tightest, usagePercent } from '../../src/quota/balance.ts'

const MAX = Number.MAX_SAFE_INTEGER

t.test('counts what is neither charged nor held as remaining, never below 0', async t => {
  const cases: [limit: number, used: number, reserved: number, remaining: number][] = [
    [200, 0, 0, 200],
    [200, 150, 20, 30],
    [200, 200, 0, 0],
    [200, 0, 200, 0],
    [200, 190, 20, 0],
    [100, 150, 0, 0],
    [0, 0, 0, 0],
    [MAX, 1, 1, MAX - 2],
    [-1, 0, 0, -1],
    [-1, 150, 20, -1]
  ]
  for (const [limit, used, reserved, remaining] of cases) {
    t.equal(remainingOf(limit, used, reserved), remaining, `${limit} − ${used} − ${reserved}`)
  }
})

t.test('admits up to the limit, to the last unit, and not one more', async t => {
  const cases: [limit: number, used: number, reserved: number, amount: number, admitted: boolean][] = [
    [10, 0, 0, 10, true],
    [10, 0, 0, 11, false],
    [10, 6, 3, 1, true],
    [10, 6, 3, 2, false],
    [10, 10, 0, 0, true],
    [10, 10, 0, 1, false],
    [0, 0, 0, 0, true],
    [0, 0, 0, 1, false],
    [10, 11, 0, 0, true],
    [10, 6, 6, 0, true],
    [10, 11, 0, 1, false],
    [MAX, MAX - 1, 0, 1, true],
    [MAX, MAX, 0, 1, false],
    [MAX, MAX, 0, MAX, false],
    [-1, MAX - 1, 0, 1, true],
    [-1, MAX, 0, 1, false]
  ]
  for (const [limit, used, reserved, amount, admitted] of cases) {
    t.equal(fits({ limit, used, reserved }, amount), admitted, `${used} + ${reserved} + ${amount} of ${limit}`)
  }
})

t.test('gives the share that is used or reserved in percent, with two decimals', async t => {
  const cases: [limit: number, used: number, reserved: number, percent: number | null][] = [
    [200, 0, 0, 0],
    [200, 50, 0, 25],
    [200, 50, 50, 50],
    [200, 200, 0, 100],
    [3, 1, 0, 33.33],
    [3, 2, 0, 66.67],
    [100_000, 1, 0, 0],
    [100, 150, 0, 150],
    [0, 0, 0, 100],
    [-1, 5, 5, null]
  ]
  for (const [limit, used, reserved, percent] of cases) {
    t.equal(usagePercent({ limit, used, reserved }), percent, `${used} + ${reserved} of ${limit}`)
  }
})

t.test('finds the balance closest to its limit, by share and not by amount', async t => {
  const half = { type: 'half', limit: 10, remaining: 5 }
  const tenth = { type: 'tenth', limit: 1000, remaining: 100 }
  const gone = { type: 'gone', limit: 10, remaining: 0 }
  const none = { type: 'none', limit: 0, remaining: 0 }
  const unlimited = { type: 'unlimited', limit: -1, remaining: -1 }
  const full = { type: 'full', limit: 5, remaining: 5 }
  const cases = [
    { of: [half, tenth], is: tenth },
    { of: [tenth, half], is: tenth },
    { of: [half, gone, tenth], is: gone },
    { of: [tenth, none], is: none },
    { of: [unlimited, full], is: full },
    { of: [full, unlimited], is: full },
    { of: [unlimited], is: unlimited },
    { of: [gone, none], is: gone }
  ]
  for (const { of, is } of cases) t.equal(tightest(of), is, of.map(b => b.type).join(', '))
  t.equal(tightest([]), undefined, 'of no balances')
})

t.test('picks the first of several balances that are equally close to their limits', async t => {
  const [first, second] = [
    { limit: 10, remaining: 5 },
    { limit: 20, remaining: 10 }
  ]
  t.equal(tightest([first!, second!]), first)
  t.equal(tightest([second!, first!]), second)
  const unlimited = [
    { limit: -1, remaining: -1 },
    { limit: -1, remaining: -1 }
  ]
  t.equal(tightest(unlimited), unlimited[0])
})
