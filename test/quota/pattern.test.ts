import t from 'tap'
import { bySpecificity, clashes, describePattern, matches, readPattern } from '../../src/quota/pattern.ts'

const code = 'FST_QUOTA_INVALID_OPTION'

/** A pattern from its short form: `GET|POST /a/*`; `* /a` names no method. */
function pattern(text: string) {
  const [methods, url] = text.split(' ') as [string, string]
  return readPattern('rules[0]', methods === '*' ? { url } : { method: methods.split('|'), url })
}

t.test('reads one method, several or none, in upper or lower case', async t => {
  t.strictSame(readPattern('r', { url: '/a' }).methods, undefined)
  t.strictSame(readPattern('r', { method: 'post', url: '/a' }).methods, ['POST'])
  t.strictSame(readPattern('r', { method: ['Get', 'M-SEARCH'], url: '/a' }).methods, ['GET', 'M-SEARCH'])
})

t.test('reads a declared URL, and a wildcard for everything below one', async t => {
  const cases: [url: string, base: string, below: boolean][] = [
    ['/', '/', false],
    ['/process/:patient/:date', '/process/:patient/:date', false],
    ['/process/', '/process', false],
    ['/process/*', '/process', true],
    ['/a/b/*', '/a/b', true],
    ['/*', '', true],
    ['*', '', true]
  ]
  for (const [url, base, below] of cases) {
    t.strictSame(readPattern('r', { url }), { methods: undefined, base, below }, url)
  }
})

t.test('refuses what cannot be the URL of a declared route, naming the option', async t => {
  for (const url of ['', 'process', 'https://example.com/a', '*/a', undefined, null, 5, /a/]) {
    t.throws(
      () => readPattern('rules[3]', { url: url as string }),
      { code, message: 'Option rules[3].url must be a declared route' },
      String(url)
    )
  }
})

t.test('refuses what is not a method, naming the option', async t => {
  for (const method of [
    '',
    '*',
    'GET,POST',
    'GET POST',
    'G3T',
    [],
    ['GET', ''],
    ['GET', 5],
    5,
    null,
    ['GET', undefined]
  ]) {
    t.throws(
      () => readPattern('rules[3]', { method: method as string, url: '/a' }),
      { code, message: 'Option rules[3].method must be a method' },
      JSON.stringify(method)
    )
  }
})

t.test('matches the route as it is declared, and no other', async t => {
  const cases: [of: string, method: string, url: string, matched: boolean][] = [
    ['POST /a/:id', 'POST', '/a/:id', true],
    ['POST /a/:id', 'POST', '/a/:name', false],
    ['POST /a/:id', 'POST', '/a/5', false],
    ['POST /a', 'POST', '/a/b', false],
    ['POST /a', 'POST', '/ab', false],
    ['POST /a', 'POST', '/A', false],
    ['POST /', 'POST', '/', true],
    ['POST /', 'POST', '/a', false]
  ]
  for (const [of, method, url, matched] of cases) t.equal(matches(pattern(of), method, url), matched, `${of}: ${url}`)
})

t.test("treats a route with and without a trailing slash as one, as Fastify does with a prefix's root", async t => {
  for (const of of ['GET /a', 'GET /a/']) {
    for (const url of ['/a', '/a/']) t.equal(matches(pattern(of), 'GET', url), true, `${of}: ${url}`)
  }
})

t.test('with a wildcard, matches everything below it, at any depth, and nothing beside it', async t => {
  const cases: [of: string, url: string, matched: boolean][] = [
    ['GET /a/*', '/a/b', true],
    ['GET /a/*', '/a/b/:c/d', true],
    ['GET /a/*', '/a/*', true],
    ['GET /a/*', '/ab', false],
    ['GET /a/*', '/a', false],
    ['GET /a/*', '/b/a/c', false],
    ['GET /*', '/', true],
    ['GET /*', '/a/b', true],
    ['GET *', '/', true],
    ['GET *', '/a/b', true],
    ['GET /*', '*', true],
    ['GET *', '*', true],
    ['GET /a/*', '*', false],
    ['GET /a/*', '/a*', true]
  ]
  for (const [of, url, matched] of cases) t.equal(matches(pattern(of), 'GET', url), matched, `${of}: ${url}`)
})

t.test('matches only the methods it names', async t => {
  const cases: [of: string, method: string, matched: boolean][] = [
    ['POST /a', 'POST', true],
    ['POST /a', 'GET', false],
    ['POST /a', 'OPTIONS', false],
    ['GET|POST /a', 'GET', true],
    ['GET|POST /a', 'POST', true],
    ['GET|POST /a', 'DELETE', false],
    ['OPTIONS /a', 'OPTIONS', true]
  ]
  for (const [of, method, matched] of cases) t.equal(matches(pattern(of), method, '/a'), matched, `${of}: ${method}`)
})

t.test('covers HEAD with GET, but not GET with HEAD', async t => {
  t.equal(matches(pattern('GET /a'), 'HEAD', '/a'), true)
  t.equal(matches(pattern('HEAD /a'), 'HEAD', '/a'), true)
  t.equal(matches(pattern('HEAD /a'), 'GET', '/a'), false)
  t.equal(matches(pattern('POST /a'), 'HEAD', '/a'), false)
})

t.test('matches every method but OPTIONS if it names none, since browsers send it without credentials', async t => {
  for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'PROPFIND']) {
    t.equal(matches(pattern('* /a'), method, '/a'), true, method)
    t.equal(matches(pattern('* /*'), method, '/a'), true, method)
  }
  t.equal(matches(pattern('* /a'), 'OPTIONS', '/a'), false)
  t.equal(matches(pattern('* /*'), 'OPTIONS', '/a'), false)
})

t.test('sorts an exact URL first, then the longer base, then the one that names its methods', async t => {
  const sorted = ['GET /a/b', '* /a/b', 'GET /a/b/c/*', 'GET /a/*', '* /a/*', 'GET /*', '* /*']
  for (const order of [[...sorted].reverse(), [...sorted].sort(), [...sorted.slice(3), ...sorted.slice(0, 3)]]) {
    t.strictSame(order.map(pattern).sort(bySpecificity).map(describePattern), sorted, order.join(', '))
  }
  t.equal(bySpecificity(pattern('GET /a/*'), pattern('POST /b/*')), 0, 'equally specific: neither comes first')
})

t.test('prefers an exact URL without methods to a wider one that names them', async t => {
  t.ok(bySpecificity(pattern('* /a'), pattern('GET /a/*')) < 0)
  t.ok(bySpecificity(pattern('* /a/b/*'), pattern('GET /a/*')) < 0)
})

t.test('detects two patterns that claim the same requests', async t => {
  const cases: [a: string, b: string, clash: boolean][] = [
    ['GET /a', 'GET /a', true],
    ['GET /a', 'GET /a/', true],
    ['GET|POST /a', 'POST|PUT /a', true],
    ['* /a', '* /a', true],
    ['* /a/*', '* /a/*', true],
    ['* /*', '* *', true],
    ['GET /a', 'HEAD /a', true],
    ['GET /a', 'POST /a', false],
    ['* /a', 'GET /a', false],
    ['GET /a', '* /a', false],
    ['GET /a', 'GET /b', false],
    ['GET /a', 'GET /a/*', false],
    ['GET /a/*', 'GET /a/b/*', false]
  ]
  for (const [a, b, clash] of cases) {
    t.equal(clashes(pattern(a), pattern(b)), clash, `${a} and ${b}`)
    t.equal(clashes(pattern(b), pattern(a)), clash, `${b} and ${a}`)
  }
})

t.test('describes a pattern in its short form', async t => {
  for (const text of ['GET /a', 'GET|POST /a/:id', '* /a', '* /a/*', '* /*', '* /']) {
    t.equal(describePattern(pattern(text)), text)
  }
})
