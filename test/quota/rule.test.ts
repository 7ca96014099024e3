import { inspect } from 'node:util'
import t from 'tap'
import { isSuccess } from '../../src/quota/outcome.ts'
import { type RouteQuota, readMetering } from '../../src/quota/rule.ts'

const code = 'FST_QUOTA_INVALID_OPTION'

interface Request {
  size: number
}

const read = (written: unknown, path = 'config.quota') => readMetering<Request>(path, written as RouteQuota<Request>)
const bySize = (request: Request) => request.size

t.test('reads charges from every form in which they can be written', async t => {
  const cases: [written: unknown, charges: { type: string; amount: unknown }[]][] = [
    ['calls', [{ type: 'calls', amount: 1 }]],
    [['calls'], [{ type: 'calls', amount: 1 }]],
    [
      ['calls', 'tokens'],
      [
        { type: 'calls', amount: 1 },
        { type: 'tokens', amount: 1 }
      ]
    ],
    [{ type: 'calls' }, [{ type: 'calls', amount: 1 }]],
    [{ type: 'calls', amount: 3 }, [{ type: 'calls', amount: 3 }]],
    [{ type: 'calls', amount: 0 }, [{ type: 'calls', amount: 0 }]],
    [{ type: 'calls', amount: undefined }, [{ type: 'calls', amount: 1 }]],
    [{ type: 'tokens', amount: bySize }, [{ type: 'tokens', amount: bySize }]],
    [{ type: 'bytes', amount: Number.MAX_SAFE_INTEGER }, [{ type: 'bytes', amount: Number.MAX_SAFE_INTEGER }]],
    [
      [{ type: 'calls' }, { type: 'tokens', amount: bySize }],
      [
        { type: 'calls', amount: 1 },
        { type: 'tokens', amount: bySize }
      ]
    ],
    [
      ['calls', { type: 'tokens', amount: 5 }],
      [
        { type: 'calls', amount: 1 },
        { type: 'tokens', amount: 5 }
      ]
    ],
    [{ quota: 'calls' }, [{ type: 'calls', amount: 1 }]],
    [{ quota: 'calls', amount: 2 }, [{ type: 'calls', amount: 2 }]],
    [{ quota: 'tokens', amount: bySize }, [{ type: 'tokens', amount: bySize }]],
    [{ quota: ['calls'], amount: 2 }, [{ type: 'calls', amount: 2 }]],
    [{ quota: { type: 'calls' } }, [{ type: 'calls', amount: 1 }]],
    [{ quota: { type: 'calls' }, amount: 2 }, [{ type: 'calls', amount: 2 }]],
    [{ quota: { type: 'calls', amount: 4 } }, [{ type: 'calls', amount: 4 }]],
    [
      { quota: ['calls', { type: 'tokens', amount: 5 }] },
      [
        { type: 'calls', amount: 1 },
        { type: 'tokens', amount: 5 }
      ]
    ]
  ]
  for (const [written, charges] of cases) t.strictSame(read(written)?.charges, charges, JSON.stringify(written))
})

t.test('exempts a route whose quota is false', async t => {
  t.equal(read(false), undefined)
})

t.test('charges 2xx by default, and leaves denial and storeFailure unset', async t => {
  for (const written of ['calls', ['calls', 'tokens'], { type: 'calls' }, { quota: 'calls' }]) {
    const metering = read(written, 'rules[4]')
    t.match(metering, { source: 'rules[4]', isCharged: isSuccess }, JSON.stringify(written))
    t.equal(metering?.denial, undefined)
    t.equal(metering?.storeFailure, undefined)
  }
})

t.test('keeps charge, denial and storeFailure in both forms that can have them', async t => {
  const said = { charge: (status: number) => status < 500, denial: { statusCode: 429 }, storeFailure: 'open' }
  for (const written of [
    { type: 'calls', ...said },
    { quota: ['calls', 'tokens'], ...said }
  ]) {
    const metering = read(written)
    t.equal(metering?.isCharged, said.charge)
    t.strictSame(metering?.denial, said.denial)
    t.equal(metering?.storeFailure, 'open')
  }
})

t.test('refuses a quota that names no type', async t => {
  const refused: [written: unknown, path: string, remedy: string][] = [
    [undefined, 'config.quota', 'must be an object'],
    [null, 'config.quota', 'must be an object'],
    [true, 'config.quota', 'must be an object'],
    [5, 'config.quota', 'must be an object'],
    [() => 'calls', 'config.quota', 'must be an object'],
    [[], 'config.quota', 'names no quota type; write false'],
    [{ quota: [] }, 'config.quota.quota', 'names no quota type; write false'],
    [{}, 'config.quota.type', 'must be the key of a quota type'],
    [{ amount: 5 }, 'config.quota.type', 'must be the key of a quota type'],
    [{ type: 5 }, 'config.quota.type', 'must be the key of a quota type'],
    [{ type: ['calls'] }, 'config.quota.type', 'must be the key of a quota type'],
    [{ quota: {} }, 'config.quota.quota.type', 'must be the key of a quota type'],
    [{ quota: null }, 'config.quota.quota', 'must be an object'],
    [{ quota: true }, 'config.quota.quota', 'must be an object'],
    [['calls', null], 'config.quota[1]', 'must be an object'],
    [['calls', ['tokens']], 'config.quota[1]', 'must be an object'],
    [[false], 'config.quota[0]', 'must be an object'],
    [['calls', {}], 'config.quota[1].type', 'must be the key of a quota type'],
    [{ quota: ['calls', {}] }, 'config.quota.quota[1].type', 'must be the key of a quota type']
  ]
  for (const [written, path, remedy] of refused) {
    t.throws(() => read(written), { code, message: `Option ${path} ${remedy}` }, `${JSON.stringify(written)}: ${path}`)
  }
})

t.test('refuses an amount that is neither a whole number nor a function, in every form', async t => {
  for (const amount of [
    -1,
    1.5,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    2 ** 53,
    '1',
    null,
    true,
    1n,
    {},
    [1],
    Object.create(null)
  ]) {
    const forms: [written: unknown, path: string][] = [
      [{ type: 'calls', amount }, 'config.quota.amount'],
      [{ quota: 'calls', amount }, 'config.quota.amount'],
      [{ quota: ['calls'], amount }, 'config.quota.amount'],
      [{ quota: { type: 'calls' }, amount }, 'config.quota.amount'],
      [{ quota: { type: 'calls', amount } }, 'config.quota.quota.amount'],
      [[{ type: 'calls', amount }], 'config.quota[0].amount'],
      [['tokens', { type: 'calls', amount }], 'config.quota[1].amount'],
      [{ quota: ['tokens', { type: 'calls', amount }] }, 'config.quota.quota[1].amount']
    ]
    for (const [written, path] of forms) {
      t.throws(
        () => read(written),
        { code, message: `Option ${path} must be a whole number from 0 to 2^53−1 or a function` },
        `${inspect(amount)}: ${path}`
      )
    }
  }
})

t.test('refuses one amount for several types', async t => {
  for (const amount of [1, bySize]) {
    t.throws(() => read({ quota: ['calls', 'tokens'], amount }, 'rules[1]'), {
      code,
      message: 'Option rules[1].amount applies to a single type; with several, write { type, amount } for each.'
    })
  }
})

t.test('refuses charge, denial and storeFailure in a nested charge, and says where they belong', async t => {
  const refused: [written: unknown, path: string][] = [
    [['calls', { type: 'tokens', charge: isSuccess }], 'config.quota[1].charge'],
    [{ quota: { type: 'calls', denial: {} } }, 'config.quota.quota.denial'],
    [[{ type: 'calls', storeFailure: 'open' }], 'config.quota[0].storeFailure']
  ]
  for (const [written, path] of refused) {
    const field = path.split('.').at(-1)
    const message = `Option ${path} belongs beside the charges and applies to all of them: { quota: …, ${field} }.`
    t.throws(() => read(written), { code, message }, path)
  }
})

t.test('refuses a type that is named twice', async t => {
  for (const written of [
    ['calls', 'calls'],
    ['calls', 'tokens', { type: 'calls', amount: 2 }]
  ]) {
    t.throws(() => read(written), { code, message: "Option config.quota names 'calls' twice" })
    t.throws(() => read({ quota: written }), { code, message: "Option config.quota.quota names 'calls' twice" })
  }
})

t.test('refuses an unknown field, naming its path', async t => {
  const refused: [written: unknown, path: string][] = [
    [{ type: 'calls', ammount: 5 }, 'config.quota.ammount'],
    [{ quota: 'calls', limit: 5 }, 'config.quota.limit'],
    [{ quota: 'calls', type: 'calls' }, 'config.quota.type']
  ]
  for (const [written, path] of refused) {
    t.throws(() => read(written), { code, message: `Option ${path} is not known; known here: ` }, path)
  }
})

t.test('refuses an invalid charge, denial or storeFailure, naming the option', async t => {
  const refused: [options: object, path: string][] = [
    [{ charge: '2xx' }, 'rules[0].charge'],
    [{ charge: 200 }, 'rules[0].charge'],
    [{ charge: null }, 'rules[0].charge'],
    [{ denial: 429 }, 'rules[0].denial'],
    [{ denial: { statusCode: 500 } }, 'rules[0].denial.statusCode'],
    [{ storeFailure: 'ignore' }, 'rules[0].storeFailure']
  ]
  for (const [options, path] of refused) {
    for (const written of [
      { type: 'calls', ...options },
      { quota: 'calls', ...options }
    ]) {
      t.throws(() => read(written, 'rules[0]'), { code, message: `Option ${path} must be ` }, JSON.stringify(written))
    }
  }
})
