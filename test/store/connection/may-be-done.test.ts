import t from 'tap'
import { FST_QUOTA_STORE } from '../../../src/quota/errors.ts'
import { mayBeDone } from '../../../src/store/connection/may-be-done.ts'
import { withDeadline } from '../../../src/store/database.ts'
import { answeredLate, NOT_SENT } from '../../../src/store/late-answer.ts'

const PATIENCE_MS = 50

/** The error of a statement for which the driver reports this code, before its deadline or after it. */
const failed = (code: string, afterMs = 0): Promise<unknown> =>
  withDeadline(
    new Promise((_, reject) => setTimeout(() => reject(Object.assign(new Error('planted'), { code })), afterMs)),
    20
  ).catch(error => error)

const NOT_DONE = [
  ...['57014', '55P03', '40P01', '23505', 'XX000'],
  ...['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'CONNECT_TIMEOUT', 'CONNECTION_ENDED']
]

for (const code of NOT_DONE) {
  for (const afterMs of [0, 60])
    t.test(`a statement that fails with ${code} after ${afterMs} ms was not carried out`, async t => {
      t.notOk(await mayBeDone(await failed(code, afterMs), PATIENCE_MS))
    })
}

for (const code of ['57P01', '08006', 'ECONNRESET', 'EPIPE', 'CONNECTION_CLOSED', 'CONNECTION_DESTROYED'])
  t.test(`waits, then says that a statement whose connection was lost (${code}) may have been carried out`, async t => {
    const error = await failed(code)
    const start = performance.now()
    t.ok(await mayBeDone(error, PATIENCE_MS))
    t.ok(performance.now() - start >= PATIENCE_MS - 1)
  })

t.test('a statement that was never sent was not carried out', async t => {
  t.notOk(await mayBeDone(answeredLate(new FST_QUOTA_STORE('planted'), NOT_SENT), PATIENCE_MS))
})

t.test('a statement that succeeds after its deadline was carried out, and is run only once', async t => {
  let runs = 0
  // Like a statement of Drizzle, which runs each time it is awaited.
  const lazy: PromiseLike<unknown> = {
    // biome-ignore lint/suspicious/noThenProperty: the test is about a thenable
    then: (...given) => {
      runs += 1
      return new Promise(resolve => setTimeout(resolve, 60)).then(...(given as []))
    }
  }
  const error = await withDeadline(lazy, 20).catch(error => error)
  t.match(error, { code: 'FST_QUOTA_STORE' })
  t.ok(await mayBeDone(error, PATIENCE_MS))
  t.equal(runs, 1)
})
