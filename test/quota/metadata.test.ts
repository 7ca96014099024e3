import t from 'tap'
import { boundMetadata, type Metadata } from '../../src/quota/metadata.ts'

const bytes = (metadata: Metadata): number => Buffer.byteLength(JSON.stringify(metadata))

/** What the database would give back. */
const stored = (metadata: Metadata | undefined): Metadata => JSON.parse(JSON.stringify(boundMetadata(metadata)))

/** An object of `levels` objects, one inside the other. */
function nested(levels: number): Metadata {
  let value: Metadata = {}
  for (let i = 1; i < levels; i += 1) value = { in: value }
  return value
}

t.test('stores an empty object if there is no metadata', async t => {
  t.strictSame(boundMetadata(undefined), {})
  t.strictSame(boundMetadata({}), {})
})

t.test('keeps plain JSON as it is', async t => {
  const metadata = {
    text: 'Zoë 😀 \n\u001f',
    number: -1.5,
    yes: true,
    nothing: null,
    list: [1, [2, {}]],
    in: { deep: [] }
  }
  t.strictSame(boundMetadata(metadata), metadata)
})

t.test('stores a value that JSON cannot express as the closest one that it can', async t => {
  const day = new Date('2026-05-01T10:00:00Z')
  const metadata = {
    date: day,
    noDate: new Date(Number.NaN),
    big: 2n ** 64n,
    url: new URL('https://example.com/a'),
    bytes: Buffer.from('ab'),
    left: undefined,
    call: () => 1,
    symbol: Symbol('s'),
    nan: Number.NaN,
    list: [undefined, day, 5n, () => 1],
    map: new Map([[1, 2]])
  }
  t.strictSame(stored(metadata), {
    date: '2026-05-01T10:00:00.000Z',
    noDate: null,
    big: '18446744073709551616',
    url: 'https://example.com/a',
    bytes: { type: 'Buffer', data: [97, 98] },
    call: null,
    symbol: null,
    nan: null,
    list: [null, '2026-05-01T10:00:00.000Z', '5', null],
    map: {}
  })
  t.notOk('left' in boundMetadata(metadata))
})

t.test('calls toJSON once for each value, as JSON.stringify does', async t => {
  t.strictSame(stored({ money: { cents: 5, toJSON: () => ({ cents: 6n }) } }), { money: { cents: '6' } })
  class Itself {
    id = 5
    toJSON() {
      return this
    }
  }
  t.strictSame(stored({ itself: new Itself() }), { itself: { id: 5 } }, 'even if it returns the value itself')
})

t.test('keeps eight levels, and marks where deeper ones are left out', async t => {
  t.strictSame(boundMetadata(nested(8)), nested(8), 'eight levels are kept')
  t.equal(
    JSON.stringify(boundMetadata(nested(9))),
    JSON.stringify({ ...nested(8), truncated: true }).replace('{}', '{"in":"…"}')
  )
  let list: unknown[] = []
  for (let i = 1; i < 20; i += 1) list = [list]
  t.equal(
    JSON.stringify(boundMetadata({ list })),
    '{"list":[[[[[[["…"]]]]]]],"truncated":true}',
    'arrays are levels too'
  )
})

t.test('survives 100 000 levels, and an object that contains itself', async t => {
  t.ok(bytes(boundMetadata(nested(100_000))) < 100)
  const ring: Metadata = { name: 'ring' }
  ring.self = ring
  t.ok(bytes(boundMetadata(ring)) < 400)
})

t.test('keeps up to 4096 bytes whole, and not one more', async t => {
  const whole = { text: 'x'.repeat(4096 - '{"text":""}'.length) }
  t.equal(bytes(whole), 4096)
  t.strictSame(boundMetadata(whole), whole)
  t.strictSame(boundMetadata({ text: `${whole.text}x` }), { truncated: true })
})

t.test('keeps as many values as fit into 4096 bytes, also those that toJSON returns', async t => {
  const zeros = { a: Array(2044).fill(0) }
  t.equal(bytes(zeros), 4095)
  t.strictSame(boundMetadata(zeros), zeros)
  t.strictSame(boundMetadata({ a: Array(2044).fill({ toJSON: () => 0 }) }), zeros)
})

t.test('counts bytes, not characters', async t => {
  t.strictSame(boundMetadata({ text: 'é'.repeat(2042) }), { text: 'é'.repeat(2042) }, '4 095 bytes')
  t.strictSame(boundMetadata({ text: 'é'.repeat(2043) }), { truncated: true }, '4 097 bytes')
})

t.test('leaves out what does not fit, says so, and keeps what comes before it', async t => {
  t.strictSame(boundMetadata({ id: 5, model: 'm', prompt: 'x'.repeat(5000), after: 1 }), {
    id: 5,
    model: 'm',
    truncated: true
  })
  t.strictSame(boundMetadata({ truncated: 'no', prompt: 'x'.repeat(5000) }), { truncated: true })
})

t.test('stays within 4096 bytes, whatever it is given', async t => {
  const many = Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`key${i}`, i]))
  const blocks = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`é${i}`, '"\\\n'.repeat(i)]))
  const cases: Record<string, Metadata> = {
    many,
    blocks,
    list: { list: Array(5000).fill(1) },
    key: { ['k'.repeat(9000)]: 1 }
  }
  for (const [name, metadata] of Object.entries(cases)) {
    const kept = boundMetadata(metadata)
    t.ok(bytes(kept) <= 4096, `${name}: ${bytes(kept)} bytes`)
    t.equal(kept.truncated, true, name)
  }
  t.ok(bytes(boundMetadata(many)) > 3500, 'and uses most of them')
})

t.test('reads no more values than could fit', async t => {
  let seen = 0
  const item = {
    get value() {
      seen += 1
      return 'x'
    }
  }
  for (const many of [Array(100_000).fill(item), Object.fromEntries(Array(100_000).fill(item).entries())]) {
    seen = 0
    t.equal(boundMetadata({ before: 1, many }).truncated, true)
    t.ok(seen <= 2048, `${seen} values`)
  }
  t.strictSame(boundMetadata({ before: 1, long: 'x'.repeat(50_000_000) }), { before: 1, truncated: true })
})

t.test('replaces U+0000 and lone surrogates, which jsonb refuses, in strings and in keys', async t => {
  const metadata = { 'a\u0000b': 'c\u0000\u0000d', 'k\ud83d': 'v\ude00', deep: [{ in: '\u0000' }], whole: '😀' }
  t.strictSame(boundMetadata(metadata), {
    'a\ufffdb': 'c\ufffd\ufffdd',
    'k\ufffd': 'v\ufffd',
    deep: [{ in: '\ufffd' }],
    whole: '😀'
  })
  t.strictSame(stored({ given: { toJSON: () => 'a\u0000' } }), { given: 'a\ufffd' }, 'also in what toJSON returns')
})

t.test('treats __proto__ as a key like any other, which changes no prototype', async t => {
  const small = JSON.parse(
    '{"__proto__":{"polluted":1},"in":{"__proto__":{"polluted":2}},"constructor":{"prototype":{}}}'
  )
  const kept = boundMetadata(small)
  t.equal(Object.getPrototypeOf(kept), Object.prototype)
  t.equal(Object.getPrototypeOf(kept.in), Object.prototype)
  t.equal(kept.polluted, undefined)
  t.equal(({} as Metadata).polluted, undefined)
  t.equal(JSON.stringify(kept), JSON.stringify(small))
})

t.test('keeps a __proto__ key even if the rest is left out', async t => {
  const big = JSON.parse(`{"__proto__":{"polluted":1},"text":"${'x'.repeat(5000)}"}`)
  const kept = boundMetadata(big)
  t.equal(Object.getPrototypeOf(kept), Object.prototype)
  t.equal(kept.polluted, undefined)
  t.equal(JSON.stringify(kept), '{"__proto__":{"polluted":1},"truncated":true}')
})

t.test('does not change what it is given', async t => {
  const given = Object.freeze({ list: Object.freeze(['a\u0000']), text: 'x'.repeat(5000) })
  const copy = structuredClone(given)
  boundMetadata(given)
  t.strictSame(given, copy)
})

t.test('replaces metadata that cannot be read instead of throwing', async t => {
  const throwing = {
    get secret() {
      throw new Error('planted')
    }
  }
  t.strictSame(boundMetadata(throwing), { truncated: true })
  t.strictSame(
    boundMetadata({
      toJSON() {
        throw new Error('planted')
      }
    }),
    { truncated: true }
  )
  for (const value of ['text', 5, [1], new Date()])
    t.strictSame(boundMetadata(value), { truncated: true }, 'not an object')
  t.strictSame(boundMetadata(null), {})
})

t.test('reads a bounded number of values, even if shared objects multiply them', async t => {
  let wide: Record<string, unknown> = {}
  for (let depth = 0; depth < 7; depth += 1)
    wide = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`, wide]))
  t.equal(boundMetadata({ wide }).truncated, true)
})
