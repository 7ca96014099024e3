import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import type { AdmittedCharge } from '../../../src/store/charge/admit.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { voidCharges } from '../../../src/store/charge/void.ts'
import type { Database } from '../../../src/store/database.ts'
import { type FullCounter, stillFull } from '../../../src/store/group/still-full.ts'
import { adjustQuota } from '../../../src/store/operator/adjust-quota.ts'
import { deleteUser } from '../../../src/store/operator/delete-user.ts'
import { resetQuota } from '../../../src/store/operator/reset-quota.ts'
import { both } from '../../fixtures/both.ts'
import { BY, costing, hold, tryHold, wanted } from '../../fixtures/charges.ts'

const onBoth = await both(t)

const TYPES = { calls: { limit: 10, period: 'day' }, storage: { limit: 5, kind: 'level' } } as const

/** Uses up a quota, and gives its counter as a denial describes it. */
async function used(db: Database, userId: string, type: keyof typeof TYPES = 'calls', at?: Date) {
  const charges = await hold(db, userId, { [type]: TYPES[type].limit }, { at })
  await commit(db, userId, costing(charges), null)
  const denial = await tryHold(db, userId, { [type]: 1 }, { at })
  if (denial.admitted) throw new Error('it was admitted')
  const [want] = await wanted(db, { [type]: 1 })
  const counter: FullCounter = { userId, typeId: want!.typeId, balance: denial.violations[0]! }
  return { charges, counter }
}

onBoth('tells which counters are as they were, and when', async (t, db) => {
  await declareTypes(db, TYPES)
  const users = ['alice', "b'ob", 'c"arol\\', 'dave/😀 %2F', 'e,{ve}']
  const counters: FullCounter[] = []
  for (const user of users) counters.push((await used(db, user)).counter)
  counters.push((await used(db, 'alice', 'storage')).counter)
  const before = Date.now()
  const { places, at } = await stillFull(db, counters)
  t.strictSame([...places].sort(), [0, 1, 2, 3, 4, 5])
  // One machine, one clock.
  t.ok(at.getTime() >= before - 1 && at.getTime() <= Date.now())
  const nobody = await stillFull(
    db,
    counters.map(counter => ({ ...counter, userId: 'nobody' }))
  )
  t.equal(nobody.places.size, 0)
})

onBoth(
  'a counter with room, or with something held of it, is not as it was; its neighbours are',
  async (t, db) => {
    await declareTypes(db, TYPES)
    const changes: Record<string, (user: string, charges: AdmittedCharge[]) => Promise<unknown>> = {
      'a reset': user => resetQuota(db, user, 'calls', BY),
      'a higher limit': user => adjustQuota(db, user, 'calls', 11, BY),
      'no limit': user => adjustQuota(db, user, 'calls', -1, BY),
      'a lower limit': user => adjustQuota(db, user, 'calls', 9, BY),
      'a charge undone': (user, charges) => voidCharges(db, user, charges),
      'a charge undone, and another held in its place': async (user, charges) => {
        await voidCharges(db, user, charges)
        await hold(db, user, { calls: 10 })
      },
      'another user of that name': async user => {
        await deleteUser(db, user, BY)
        await hold(db, user, { calls: 1 })
      },
      'a deletion': user => deleteUser(db, user, BY)
    }
    for (const [what, change] of Object.entries(changes)) {
      const [first, second, third] = [
        await used(db, `${what} 1`),
        await used(db, `${what} 2`),
        await used(db, `${what} 3`)
      ]
      await change(`${what} 2`, second.charges)
      const { places } = await stillFull(db, [first.counter, second.counter, third.counter])
      t.strictSame([...places].sort(), [0, 2], what)
    }
  },
  { overLimit: true }
)

onBoth('a counter whose period has ended is not as it was', async (t, db) => {
  await declareTypes(db, TYPES)
  const { counter } = await used(db, 'alice', 'calls', new Date(Date.now() - 86_400_000))
  t.equal((await stillFull(db, [counter])).places.size, 0)
})
