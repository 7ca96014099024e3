import t from 'tap'
import { isTypeKey, periodOf, type QuotaDeclaration, readDeclaration } from '../../src/quota/quota-type.ts'

const code = 'FST_QUOTA_INVALID_OPTION'

t.test('accepts [a-z][a-z0-9_]{0,99} as a key, and nothing else', async t => {
  for (const key of ['a', 'api_calls_l3_detect', 'a1', 'a_', `a${'9'.repeat(99)}`]) t.equal(isTypeKey(key), true, key)
  const refused = ['', 'A', 'apiCalls', '1a', '_a', 'a-b', 'a b', 'a.b', 'ä', 'a\n', `a${'9'.repeat(100)}`, '__proto__']
  for (const key of [...refused, undefined, null, 5, ['a']]) t.equal(isTypeKey(key), false, JSON.stringify(key))
})

t.test('fills in the defaults: the key as name, call as unit, and a flow that resets each month', async t => {
  t.strictSame(readDeclaration('api_calls', { limit: 200 }), {
    name: 'api_calls',
    description: null,
    unit: 'call',
    limit: 200,
    kind: 'flow',
    period: 'month'
  })
})

t.test('keeps every declared field except the denial', async t => {
  const declared: QuotaDeclaration = {
    name: 'Tokens',
    description: 'What the model reads and writes',
    unit: 'token',
    limit: 1_000_000,
    kind: 'flow',
    period: 'week',
    denial: { statusCode: 429 }
  }
  const { denial, ...kept } = declared
  t.strictSame(readDeclaration('tokens', declared), kept)
})

t.test('treats a field that is undefined as left out', async t => {
  const declared = {
    name: undefined,
    description: undefined,
    unit: undefined,
    limit: 1,
    kind: undefined,
    period: undefined
  }
  t.strictSame(
    readDeclaration('api_calls', declared as unknown as QuotaDeclaration),
    readDeclaration('api_calls', { limit: 1 })
  )
})

t.test('accepts every period for a flow, and limits from −1 to 2^53−1', async t => {
  for (const period of ['hour', 'day', 'week', 'month', 'year', 'never'] as const) {
    t.equal(readDeclaration('calls', { limit: 1, period }).period, period)
  }
  for (const limit of [-1, 0, 1, Number.MAX_SAFE_INTEGER]) t.equal(readDeclaration('calls', { limit }).limit, limit)
})

t.test('never resets a level, whether its declaration says so or not', async t => {
  t.equal(readDeclaration('storage', { limit: 1, kind: 'level' }).period, 'never')
  t.equal(readDeclaration('storage', { limit: 1, kind: 'level', period: 'never' }).period, 'never')
})

t.test('refuses an invalid declaration, naming the option that is wrong and what it must be', async t => {
  const refused: [declaration: unknown, path: string, remedy: string][] = [
    [null, 'quotas.calls', 'must be an object'],
    [200, 'quotas.calls', 'must be an object'],
    ['200', 'quotas.calls', 'must be an object'],
    [undefined, 'quotas.calls', 'must be an object'],
    [{ limit: 1, max: 5 }, 'quotas.calls.max', 'is not known; known here: name, description, unit, limit'],
    [{ limit: 1, name: '' }, 'quotas.calls.name', 'must be a non-empty string'],
    [{ limit: 1, name: ' \t' }, 'quotas.calls.name', 'must be a non-empty string'],
    [{ limit: 1, name: '  ' }, 'quotas.calls.name', 'must be a non-empty string'],
    [{ limit: 1, name: '\u001b[2Jcalls' }, 'quotas.calls.name', 'must be a non-empty string without control'],
    [{ limit: 1, name: null }, 'quotas.calls.name', 'must be a non-empty string'],
    [{ limit: 1, name: 5 }, 'quotas.calls.name', 'must be a non-empty string'],
    [{ limit: 1, unit: '' }, 'quotas.calls.unit', 'must be a non-empty string'],
    [{ limit: 1, unit: 'call\n' }, 'quotas.calls.unit', 'must be a non-empty string without control'],
    [{ limit: 1, unit: {} }, 'quotas.calls.unit', 'must be a non-empty string'],
    [{ limit: 1, description: 5 }, 'quotas.calls.description', 'must be a string'],
    [{}, 'quotas.calls.limit', 'must be a whole number from 0 to 2^53−1, or -1 for unlimited, but is undefined'],
    [{ limit: -2 }, 'quotas.calls.limit', 'must be a whole number'],
    [{ limit: 1.5 }, 'quotas.calls.limit', 'must be a whole number'],
    [{ limit: '200' }, 'quotas.calls.limit', 'must be a whole number'],
    [{ limit: null }, 'quotas.calls.limit', 'must be a whole number'],
    [{ limit: Number.POSITIVE_INFINITY }, 'quotas.calls.limit', 'must be a whole number'],
    [{ limit: Number.NaN }, 'quotas.calls.limit', 'must be a whole number'],
    [{ limit: 2 ** 53 }, 'quotas.calls.limit', 'must be a whole number'],
    [{ limit: Object.create(null) }, 'quotas.calls.limit', 'must be a whole number'],
    [{ limit: 1, kind: 'gauge' }, 'quotas.calls.kind', "must be 'flow' or 'level', but is 'gauge'"],
    [{ limit: 1, kind: null }, 'quotas.calls.kind', "must be 'flow' or 'level'"],
    [{ limit: 1, period: 'fortnight' }, 'quotas.calls.period', 'must be one of hour, day, week, month, year, never'],
    [{ limit: 1, period: 'Month' }, 'quotas.calls.period', 'must be one of'],
    [{ limit: 1, period: null }, 'quotas.calls.period', 'must be one of'],
    [{ limit: 1, kind: 'level', period: 'month' }, 'quotas.calls.period', 'must be left out: a level never resets'],
    [{ limit: 1, denial: 429 }, 'quotas.calls.denial', 'must be an object'],
    [
      { limit: 1, denial: { statusCode: 200 } },
      'quotas.calls.denial.statusCode',
      'must be a status code from 400 to 499'
    ],
    [{ limit: 1, denial: { upgradeUrl: 5 } }, 'quotas.calls.denial.upgradeUrl', 'must be a URL']
  ]
  for (const [declaration, path, remedy] of refused) {
    t.throws(
      () => readDeclaration('calls', declaration as QuotaDeclaration),
      { code, message: `Option ${path} ${remedy}` },
      `${JSON.stringify(declaration)}: ${path}`
    )
  }
})

t.test('refuses a declaration whose key is invalid', async t => {
  for (const key of ['', 'apiCalls', 'api-calls', '1st']) {
    t.throws(
      () => readDeclaration(key, { limit: 1 }),
      { code, message: `Option quotas.${key} is not a quota type key` },
      key
    )
  }
})

t.test('never resets a level, whatever its row says, and resets a flow by its period', async t => {
  t.equal(periodOf({ kind: 'level', period: 'month' }), 'never')
  t.equal(periodOf({ kind: 'level', period: 'never' }), 'never')
  t.equal(periodOf({ kind: 'flow', period: 'week' }), 'week')
  t.equal(periodOf({ kind: 'flow', period: 'never' }), 'never')
})
