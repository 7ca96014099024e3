import t from 'tap'
import { FST_QUOTA_STORE } from '../../../src/quota/errors.ts'
import { Presence } from '../../../src/store/connection/presence.ts'
import { withDeadline } from '../../../src/store/database.ts'
import { answeredLate, NOT_SENT } from '../../../src/store/late-answer.ts'

const TIMEOUT_MS = 2_000

/** The error of a request whose statement was never sent. */
const crowded = answeredLate(new FST_QUOTA_STORE('no answer in time'), NOT_SENT)

/** A statement that the database or the driver answers with this error code. */
const says = (code: string) => withDeadline(Promise.reject(Object.assign(new Error('planted'), { code })), 1_000)
const silence = (forMs: number) => withDeadline(new Promise(() => {}), forMs)

t.test('a request that was never sent counts as crowded out, unless the database is known to be away', async t => {
  const presence = new Presence(TIMEOUT_MS)
  const hear = (answer: Promise<unknown>) => presence.hear(answer).catch(error => error)
  const isThere = () => presence.isCrowded(crowded)
  t.ok(isThere(), 'before anything was heard')
  for (const code of ['ECONNREFUSED', 'CONNECTION_CLOSED', '57P01', '08006']) {
    await hear(says(code))
    t.notOk(isThere(), code)
    await hear(Promise.resolve('an answer'))
    t.ok(isThere(), 'it answers again')
    await hear(says(code))
    await hear(says('55P03'))
    t.ok(isThere(), 'a refusal is an answer, too')
  }
  await hear(silence(1))
  t.ok(isThere(), 'a short silence does not mean that it is away')
  await hear(silence(TIMEOUT_MS))
  t.notOk(isThere())
})

t.test('a request that was sent never counts as crowded out', async t => {
  const presence = new Presence(TIMEOUT_MS)
  t.notOk(presence.isCrowded(await presence.hear(silence(1)).catch(error => error)))
  t.notOk(presence.isCrowded(await presence.hear(says('55P03')).catch(error => error)))
})

t.test('hear() passes answers and errors through', async t => {
  const presence = new Presence(TIMEOUT_MS)
  t.equal(await presence.hear(Promise.resolve(7)), 7)
  await t.rejects(presence.hear(says('55P03')), { code: 'FST_QUOTA_STORE', cause: { code: '55P03' } })
})
