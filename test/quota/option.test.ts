import t from 'tap'
import { refuseUnknown, requireObject } from '../../src/quota/option.ts'

const code = 'FST_QUOTA_INVALID_OPTION'

t.test('refuses an unknown field, naming its path and the known fields', async t => {
  t.throws(() => refuseUnknown('denial', { statuscode: 429 }, ['statusCode', 'upgradeUrl']), {
    code,
    statusCode: 500,
    message: 'Option denial.statuscode is not known; known here: statusCode, upgradeUrl.'
  })
  t.throws(() => refuseUnknown('', { quota: {} }, ['quotas', 'rules']), {
    code,
    message: 'Option quota is not known; known here: quotas, rules.'
  })
})

t.test('refuses an unknown field even if it is undefined, or named like a member that every object has', async t => {
  t.throws(() => refuseUnknown('a', { b: undefined }, ['c']), { code, message: 'Option a.b ' })
  t.throws(() => refuseUnknown('a', { toString: 1 }, ['c']), { code, message: 'Option a.toString ' })
  t.throws(() => refuseUnknown('a', JSON.parse('{"__proto__":1}'), ['c']), { code, message: 'Option a.__proto__ ' })
})

t.test('accepts any number of known fields', async t => {
  t.doesNotThrow(() => refuseUnknown('a', {}, ['b', 'c']))
  t.doesNotThrow(() => refuseUnknown('a', { c: 1, b: undefined }, ['b', 'c']))
})

t.test('accepts an object, and refuses anything else with an example', async t => {
  for (const value of [{}, { a: 1 }, Object.create(null)]) t.doesNotThrow(() => requireObject('denial', value, '{}'))
  for (const value of [undefined, null, 'text', 5, true, [], [{}], () => ({})]) {
    t.throws(
      () => requireObject('denial', value, '{ statusCode: 429 }'),
      { code, message: 'Option denial must be an object such as { statusCode: 429 }.' },
      `${typeof value} ${JSON.stringify(value)}`
    )
  }
})
