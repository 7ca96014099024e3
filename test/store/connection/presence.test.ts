import t from 'tap'
import { FST_QUOTA_STORE } from '../../../src/quota/errors.ts'
import { Presence } from '../../../src/store/connection/presence.ts'
import { withDeadline } from '../../../src/store/database.ts'
import { answeredLate, NOT_SENT } from '../../../src/store/late-answer.ts'

const TIMEOUT_MS = 60

/** Of a request whose statement was never sent. */
const crowded = answeredLate(new FST_QUOTA_STORE('no answer in time'), NOT_SENT)

/** What the database, or the driver, says of a statement. */
const says = (code: string) => withDeadline(Promise.reject(Object.assign(new Error('planted'), { code })), 1_000)
const silence = (forMs: number) => withDeadline(new Promise(() => {}), forMs)

t.test('who only waited behind others waited for a database that is there, until it is known to be away', async t => {
  const presence = new Presence(TIMEOUT_MS)
  const hear = (answer: Promise<unknown>) => presence.hear(answer).catch(error => error)
  const isThere = () => presence.isCrowded(crowded)
  t.ok(isThere(), 'as long as nothing was heard')
  for (const code of ['ECONNREFUSED', 'CONNECTION_CLOSED', '57P01', '08006']) {
    await hear(says(code))
    t.notOk(isThere(), code)
    await hear(Promise.resolve('an answer'))
    t.ok(isThere(), 'it answers again')
    await hear(says(code))
    await hear(says('55P03'))
    t.ok(isThere(), 'also where it refuses')
  }
  await hear(silence(1))
  t.ok(isThere(), 'who had no time left to hear it has not heard that it is away')
  await hear(silence(TIMEOUT_MS))
  t.notOk(isThere())
})

t.test('what was sent did not only wait', async t => {
  const presence = new Presence(TIMEOUT_MS)
  t.notOk(presence.isCrowded(await presence.hear(silence(1)).catch(error => error)))
  t.notOk(presence.isCrowded(await presence.hear(says('55P03')).catch(error => error)))
})

t.test('what was heard is given on', async t => {
  const presence = new Presence(TIMEOUT_MS)
  t.equal(await presence.hear(Promise.resolve(7)), 7)
  await t.rejects(presence.hear(says('55P03')), { code: 'FST_QUOTA_STORE', cause: { code: '55P03' } })
})
