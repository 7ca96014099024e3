import t from 'tap'
import { checkDenial, checkStoreFailure, DEFAULT_DENIAL, mergeDenial } from '../../src/quota/denial.ts'

const code = 'FST_QUOTA_INVALID_OPTION'

t.test('accepts a denial with a 4xx status and a URL, each of which may be left out', async t => {
  const taken = [
    undefined,
    {},
    { statusCode: 400 },
    { statusCode: 429 },
    { statusCode: 499 },
    { upgradeUrl: '/plans' },
    { upgradeUrl: null },
    { statusCode: undefined, upgradeUrl: undefined },
    { statusCode: 402, upgradeUrl: 'https://example.com/plans' }
  ]
  for (const denial of taken) t.doesNotThrow(() => checkDenial('denial', denial), JSON.stringify(denial) ?? 'undefined')
})

t.test('refuses any other denial, naming the option that is wrong', async t => {
  const refused: [denial: unknown, path: string][] = [
    [null, 'rules[0].denial'],
    [429, 'rules[0].denial'],
    ['429', 'rules[0].denial'],
    [[429], 'rules[0].denial'],
    [{ status: 429 }, 'rules[0].denial.status'],
    [{ upgrade_url: '/plans' }, 'rules[0].denial.upgrade_url'],
    [{ statusCode: 399 }, 'rules[0].denial.statusCode'],
    [{ statusCode: 500 }, 'rules[0].denial.statusCode'],
    [{ statusCode: 200 }, 'rules[0].denial.statusCode'],
    [{ statusCode: 402.5 }, 'rules[0].denial.statusCode'],
    [{ statusCode: '429' }, 'rules[0].denial.statusCode'],
    [{ statusCode: null }, 'rules[0].denial.statusCode'],
    [{ statusCode: Number.NaN }, 'rules[0].denial.statusCode'],
    [{ upgradeUrl: 5 }, 'rules[0].denial.upgradeUrl'],
    [{ upgradeUrl: false }, 'rules[0].denial.upgradeUrl']
  ]
  for (const [denial, path] of refused) {
    t.throws(() => checkDenial('rules[0].denial', denial), { code, message: `Option ${path} ` }, JSON.stringify(denial))
  }
})

t.test("accepts 'closed', 'open' or nothing as storeFailure, and refuses anything else", async t => {
  for (const value of ['closed', 'open', undefined]) t.doesNotThrow(() => checkStoreFailure('storeFailure', value))
  for (const value of ['Open', '', null, true, 5]) {
    t.throws(
      () => checkStoreFailure('rules[2].storeFailure', value),
      { code, message: 'Option rules[2].storeFailure ' },
      String(value)
    )
  }
})

t.test('denies with 402 and /subscription by default', async t => {
  t.strictSame(DEFAULT_DENIAL, { statusCode: 402, upgradeUrl: '/subscription' })
  t.strictSame(mergeDenial(), DEFAULT_DENIAL)
  t.strictSame(mergeDenial(undefined, {}, { statusCode: undefined, upgradeUrl: undefined }), DEFAULT_DENIAL)
})

t.test('takes each member from the nearest place that sets it', async t => {
  const rule = { statusCode: 429 }
  const type = { statusCode: 403, upgradeUrl: '/type' }
  const plugin = { statusCode: 410, upgradeUrl: '/plugin' }
  t.strictSame(mergeDenial(rule, type, plugin), { statusCode: 429, upgradeUrl: '/type' })
  t.strictSame(mergeDenial(undefined, type, plugin), { statusCode: 403, upgradeUrl: '/type' })
  t.strictSame(mergeDenial(rule, undefined, plugin), { statusCode: 429, upgradeUrl: '/plugin' })
  t.strictSame(mergeDenial(rule, undefined, undefined), { statusCode: 429, upgradeUrl: '/subscription' })
  t.strictSame(mergeDenial({ statusCode: undefined }, type), type, 'undefined does not set it')
})

t.test('takes a null upgradeUrl to mean none, whatever is set further away', async t => {
  t.strictSame(mergeDenial({ upgradeUrl: null }, { upgradeUrl: '/type' }), { statusCode: 402, upgradeUrl: null })
  t.strictSame(mergeDenial({ upgradeUrl: '/rule' }, { upgradeUrl: null }), { statusCode: 402, upgradeUrl: '/rule' })
})

t.test('changes neither what it merges nor the default', async t => {
  const rule = Object.freeze({ statusCode: 429 })
  mergeDenial(rule, Object.freeze({ upgradeUrl: null })).statusCode = 499
  t.strictSame(DEFAULT_DENIAL, { statusCode: 402, upgradeUrl: '/subscription' })
  t.strictSame(rule, { statusCode: 429 })
})
