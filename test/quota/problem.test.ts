import t from 'tap'
import type { Violation } from '../../src/quota/errors.ts'
import { PROBLEM_JSON, problem, quotaExceeded, retryAfter } from '../../src/quota/problem.ts'

const violation = (over: Partial<Violation> = {}): Violation => ({
  type: 'api_calls',
  limit: 200,
  used: 190,
  reserved: 7,
  remaining: 3,
  required: 5,
  periodStart: new Date('2026-05-01T00:00:00Z'),
  resetsAt: new Date('2026-06-01T00:00:00Z'),
  retryAfter: 3600,
  ...over
})

t.test('says in the body what was needed, what is left, when it resets and where to get more', async t => {
  t.strictSame(quotaExceeded([violation()], 402, '/subscription'), {
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    title: 'Quota exceeded',
    status: 402,
    detail: "This needs 5 of 'api_calls', and 3 of 200 are left.",
    code: 'FST_QUOTA_EXCEEDED',
    'violated-policies': ['api_calls'],
    quota_type: 'api_calls',
    limit: 200,
    used: 190,
    reserved: 7,
    remaining: 3,
    required: 5,
    resets_at: '2026-06-01T00:00:00.000Z',
    upgrade_url: '/subscription'
  })
})

t.test('answers with the configured status, and repeats it in the body', async t => {
  t.equal(quotaExceeded([violation()], 429, null).status, 429)
})

t.test('leaves upgrade_url out if there is none', async t => {
  t.notOk('upgrade_url' in quotaExceeded([violation()], 402, null))
})

t.test('gives null as the reset time of a quota that never resets', async t => {
  t.equal(quotaExceeded([violation({ resetsAt: null })], 402, null).resets_at, null)
})

t.test('says that an unlimited quota has no limit but cannot count any further', async t => {
  const { detail } = quotaExceeded([violation({ limit: -1, remaining: -1 })], 402, null)
  t.match(detail, /has no limit but cannot count past 2\^53−1/)
})

t.test('names every violated quota, and describes the first', async t => {
  const body = quotaExceeded([violation({ type: 'tokens', limit: 9 }), violation({ type: 'calls' })], 402, null)
  t.strictSame(body['violated-policies'], ['tokens', 'calls'])
  t.match(body, { quota_type: 'tokens', limit: 9, detail: /'tokens'/ })
})

t.test('does not mention the user in a denial', async t => {
  const members = Object.keys(quotaExceeded([{ ...violation(), userId: 'alice' } as Violation], 402, '/subscription'))
  t.notOk(members.some(member => /user/i.test(member)))
})

t.test('gives any other refusal the title of its status, a code, a detail and its own members', async t => {
  t.strictSame(problem(403, 'FST_QUOTA_FORBIDDEN', 'No.'), {
    type: 'about:blank',
    title: 'Forbidden',
    status: 403,
    detail: 'No.',
    code: 'FST_QUOTA_FORBIDDEN'
  })
  t.strictSame(problem(400, 'FST_QUOTA_INVALID_REQUEST', 'What?', { field: 'limit' }), {
    type: 'about:blank',
    title: 'Bad Request',
    status: 400,
    detail: 'What?',
    code: 'FST_QUOTA_INVALID_REQUEST',
    field: 'limit'
  })
  t.equal(problem(499, 'FST_ODD', 'Odd.').title, 'Error', 'a status without a name')
  t.equal(PROBLEM_JSON, 'application/problem+json; charset=utf-8')
})

t.test('gives a time to wait only when waiting helps', async t => {
  const cases: [name: string, violations: Violation[], seconds: number | undefined][] = [
    ['the period ends, and the amount fits an empty one', [violation()], 3600],
    ['the amount is exactly what an empty period has', [violation({ required: 200 })], 3600],
    ['the amount fits no period', [violation({ required: 201 })], undefined],
    ['the limit is 0', [violation({ limit: 0, required: 1 })], undefined],
    ['it never resets', [violation({ retryAfter: null, resetsAt: null })], undefined],
    ['several: the longest wait', [violation({ retryAfter: 60 }), violation({ retryAfter: 7200 })], 7200],
    ['several, the longest first', [violation({ retryAfter: 7200 }), violation({ retryAfter: 60 })], 7200],
    ['several, one of which never resets', [violation(), violation({ retryAfter: null })], undefined],
    ['several, one of which the amount never fits', [violation({ required: 201 }), violation()], undefined],
    ['the period is about to end: at least a second', [violation({ retryAfter: 0 })], 1],
    ['an unlimited one that cannot count any further', [violation({ limit: -1, remaining: -1, retryAfter: 60 })], 60]
  ]
  for (const [name, violations, seconds] of cases) t.equal(retryAfter(violations), seconds, name)
})
