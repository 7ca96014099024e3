import t from 'tap'
import * as errors from '../../src/quota/errors.ts'

const STATUS_CODES: Record<string, number> = {
  FST_QUOTA_INVALID_OPTION: 500,
  FST_QUOTA_UNKNOWN_TYPE: 500,
  FST_QUOTA_RULE_WITHOUT_ROUTE: 500,
  FST_QUOTA_ROUTE_OUT_OF_REACH: 500,
  FST_QUOTA_ALREADY_REGISTERED: 500,
  FST_QUOTA_NO_IDENTITY: 500,
  FST_QUOTA_UNAUTHORIZED: 401,
  FST_QUOTA_FORBIDDEN: 403,
  FST_QUOTA_TOO_MANY_ATTEMPTS: 429,
  FST_QUOTA_TOO_MANY_EXPORTS: 429,
  FST_QUOTA_UNKNOWN_PATH: 404,
  FST_QUOTA_FAILED: 500,
  FST_QUOTA_INVALID_USER: 400,
  FST_QUOTA_INVALID_AMOUNT: 422,
  FST_QUOTA_INVALID_LIMIT: 422,
  FST_QUOTA_INVALID_CALL: 400,
  FST_QUOTA_AMOUNT_FUNCTION: 500,
  FST_QUOTA_KIND_MISMATCH: 409,
  FST_QUOTA_KIND_CHANGED: 500,
  FST_QUOTA_UNKNOWN_USER: 404,
  FST_QUOTA_IDEMPOTENCY_MISMATCH: 422,
  FST_QUOTA_NOT_RESERVED: 500,
  FST_QUOTA_SETTLED: 409,
  FST_QUOTA_CONNECTION: 500,
  FST_QUOTA_UNREACHABLE: 503,
  FST_QUOTA_SCHEMA: 500,
  FST_QUOTA_DIRECTORY_IN_USE: 500,
  FST_QUOTA_DIRECTORY_UNREADABLE: 500,
  FST_QUOTA_CALENDAR: 500,
  FST_QUOTA_STORE: 503,
  FST_QUOTA_CHANGE_REFUSED: 409
}

const violation: errors.Violation = {
  type: 'tokens',
  limit: 100,
  used: 90,
  reserved: 8,
  remaining: 2,
  required: 5,
  periodStart: new Date('2026-05-01T00:00:00Z'),
  resetsAt: null,
  retryAfter: null
}

/** Every error that is made from strings alone, given at least as many as its message has placeholders. */
const made = Object.entries(errors)
  .filter(([name]) => name !== 'FST_QUOTA_EXCEEDED')
  .map(([name, make]) => ({
    name,
    error: new (make as unknown as new (...args: string[]) => Error & { code: string; statusCode: number })(
      'one',
      'two',
      'three'
    )
  }))

t.test('gives every error its own name as its code', async t => {
  for (const { name, error } of made) t.equal(error.code, name)
})

t.test('gives every error its HTTP status', async t => {
  const statusOf = Object.fromEntries(made.map(({ name, error }) => [name, error.statusCode]))
  for (const [name, status] of Object.entries(STATUS_CODES)) t.equal(statusOf[name], status, name)
})

t.test('fills in every placeholder of a message', async t => {
  for (const { name, error } of made) {
    t.ok(error instanceof Error)
    t.notMatch(error.message, /%[sdifjoOc]/, name)
    t.not(error.message, '', name)
  }
  t.equal(
    new errors.FST_QUOTA_INVALID_OPTION('rules[0].url', 'must be a declared route').message,
    'Option rules[0].url must be a declared route.'
  )
  t.equal(
    new errors.FST_QUOTA_KIND_MISMATCH('api_calls', 'flow', 'only a level can be credited').message,
    "Quota type 'api_calls' is a flow: only a level can be credited."
  )
})

t.test('keeps the cause of an error, but not in its message', async t => {
  const cause = new Error('connect ECONNREFUSED postgres://quota:secret@db')
  const error = new errors.FST_QUOTA_STORE('no connection', { cause })
  t.equal(error.cause, cause)
  t.equal(error.message, 'The quota store failed: no connection.')
  t.equal(new errors.FST_QUOTA_AMOUNT_FUNCTION('tokens', 'threw', { cause }).cause, cause)
  t.equal(new errors.FST_QUOTA_STORE('no connection').cause, undefined)
})

t.test('says how much an unlimited quota can still count, and leaves a percent sign in a value as it is', async t => {
  const unlimited = {
    type: 'calls',
    limit: -1,
    used: 9,
    reserved: 1,
    remaining: -1,
    periodStart: new Date(),
    resetsAt: null
  }
  t.match(
    new errors.FST_QUOTA_EXCEEDED([{ ...unlimited, required: Number.MAX_SAFE_INTEGER, retryAfter: null }]).message,
    `${Number.MAX_SAFE_INTEGER} needed, ${Number.MAX_SAFE_INTEGER - 10} left`
  )
  t.equal(new errors.FST_QUOTA_SETTLED('100%s').message, 'The reservation has already been 100%s.')
})

t.test('carries every violation in FST_QUOTA_EXCEEDED, and describes the first', async t => {
  const second = { ...violation, type: 'calls', required: 1, remaining: 0 }
  const error = new errors.FST_QUOTA_EXCEEDED([violation, second])
  t.ok(error instanceof Error)
  t.ok(error instanceof errors.FST_QUOTA_EXCEEDED)
  t.equal(error.code, 'FST_QUOTA_EXCEEDED')
  t.equal(error.statusCode, 402)
  t.equal(error.message, "The quota 'tokens' does not allow this: 5 needed, 2 left.")
  t.strictSame(error.violations, [violation, second])
})

t.test('makes errors that can be told apart by instanceof', async t => {
  t.notOk(new errors.FST_QUOTA_STORE('x') instanceof errors.FST_QUOTA_EXCEEDED)
  t.notOk(new errors.FST_QUOTA_EXCEEDED([violation]) instanceof errors.FST_QUOTA_STORE)
})
