// What is held is summed up from where open reservations begin: those of long ago are passed over, however many an old snapshot keeps.
import t, { type Test } from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import type { Admitted } from '../../src/store/charge/admit.ts'
import { HeldSince } from '../../src/store/charge/held-since.ts'
import { reserve } from '../../src/store/charge/reserve.ts'
import { connect } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { Holding } from '../../src/store/group/hold-alike.ts'
import { type Move, moveOneUser } from '../../src/store/group/move-one-user.ts'
import { Reservations } from '../../src/store/group/reservations.ts'
import type { Told as Answer } from '../../src/store/group/wishes.ts'
import { costing, standing, wanted } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'

const pg = await server(t)
const PATIENCE_MS = 20_000
const DAY = 86_400_000

/** One user, who holds 1. */
async function begin(t: Test) {
  const url = await pg.migrated()
  const db = await connect({ url }, { storeTimeoutMs: PATIENCE_MS })
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 1_000 } })
  const charges = await wanted(db, { calls: 1 })
  await new Reservations(db, PATIENCE_MS).reserve('alice', charges, 60_000)
  const { typeId } = charges[0]!
  return { db, typeId, heldSince: new HeldSince(0) }
}

interface Told {
  used: number
  reserved: number
}

function told(answer: Answer | { used_amount: number; reserved_amount: number }): Told {
  if (typeof answer !== 'object') throw new Error(`not held: ${answer}`)
  const { used_amount, reserved_amount } = answer
  return { used: used_amount - reserved_amount, reserved: reserved_amount }
}

type Hold = (db: Database, wish: { userId: string; id: string; typeId: number }) => Promise<Told>

/** Each way to hold 1 that sums up from where reservations begin. */
const WAYS: Record<string, (heldSince: HeldSince) => Hold> = {
  alike: heldSince => {
    const { hold } = new Holding(heldSince)
    return async (db, wish) => told((await hold(db.holding, [{ ...wish, amount: 1, leaseMs: 60_000 }]))[0]!)
  },
  many: heldSince => {
    const { hold } = new Holding(heldSince)
    // Of differing amounts.
    return async (db, wish) => {
      const wishes = [0, 1].map(amount => ({ ...wish, id: amount === 1 ? wish.id : v7(), amount, leaseMs: 60_000 }))
      return told((await hold(db.holding, wishes))[1]!)
    }
  },
  'by itself': heldSince => async (db, wish) => {
    const charges = [{ ...wish, type: 'calls', amount: 1 }]
    const admission = await reserve(db, { userId: 'alice', charges, leaseMs: 60_000, heldSince })
    const { used, reserved } = (admission as Admitted).charges[0]!.balance
    return { used, reserved }
  },
  alone: heldSince => alone(heldSince)
}

const alone =
  (heldSince: HeldSince): Hold =>
  async (db, wish) => {
    const moves: Move[] = [{ do: 'reserve', ...wish, amount: 1, leaseMs: 60_000 }]
    return told((await moveOneUser(db.metering, moves, heldSince))[0]!)
  }

/** Each statement that moves a counter takes 10 ms, as where many reservations are kept. */
const makeLaboured = async (db: Database): Promise<void> => {
  await db.query(
    `CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$`
  )
  await db.query('CREATE TRIGGER wait BEFORE UPDATE ON quota_limits FOR EACH ROW EXECUTE FUNCTION wait()')
}

for (const [way, holding] of Object.entries(WAYS)) {
  t.test(`what has been held for a day is told in each answer: ${way}`, async t => {
    const { db, typeId, heldSince } = await begin(t)
    await makeLaboured(db)
    await db.query(
      `UPDATE quota_reservations SET id = $1, created_at = now() - interval '1 day', period_start = now() - interval '1 day'`,
      [v7({ msecs: Date.now() - DAY })]
    )
    for (const table of ['quota_periods', 'quota_limits'])
      await db.query(`UPDATE ${table} SET period_start = (SELECT period_start FROM quota_reservations)`)
    const hold = holding(heldSince)
    for (const reserved of [2, 3, 4])
      t.strictSame(await hold(db, { userId: 'alice', id: v7(), typeId }), { used: 0, reserved })
  })

  t.test(`reservations from before those that are open are passed over: ${way}`, async t => {
    const { db, typeId, heldSince } = await begin(t)
    await makeLaboured(db)
    const hold = holding(heldSince)
    const wish = () => ({ userId: 'alice', id: v7(), typeId })
    for (const reserved of [2, 3]) t.strictSame(await hold(db, wish()), { used: 0, reserved })
    // None is made with such an id; it shows which are looked at.
    await db.query(
      'UPDATE quota_reservations SET id = $1 WHERE id = (SELECT min(id::text)::uuid FROM quota_reservations)',
      [v7({ msecs: Date.now() - DAY })]
    )
    t.strictSame(await hold(db, wish()), { used: 1, reserved: 3 })
    // The operator's views look at all.
    t.strictSame(await standing(db, 'alice', 'calls'), [0, 4, 996])
    t.strictSame(await violations(db), [])
  })
}

for (const settled of ['charged', 'released'])
  t.test(`several that are ${settled} pass over reservations from before those that are open`, async t => {
    const db = await connect({ url: await pg.migrated() }, { storeTimeoutMs: PATIENCE_MS })
    t.teardown(() => db.close())
    await declareTypes(db, { calls: { limit: 1_000 }, tokens: { limit: 1_000 } })
    // There several are settled by a statement of their own.
    const store = new Reservations(db, PATIENCE_MS, { distributed: true })
    const holdBoth = async () => {
      const admission = await store.reserve('alice', await wanted(db, { calls: 1, tokens: 1 }), 60_000)
      return (admission as Admitted).charges
    }
    await holdBoth()
    const charges = await holdBoth()
    await db.query(
      'UPDATE quota_reservations SET id = $1 WHERE id = (SELECT min(id::text)::uuid FROM quota_reservations)',
      [v7({ msecs: Date.now() - DAY })]
    )
    const balances =
      settled === 'charged'
        ? await store.commit('alice', costing(charges), null)
        : await store.release('alice', charges)
    const one = settled === 'charged' ? 1 : 0
    t.match(balances.get('calls'), { used: one + 1, reserved: 0 })
    t.match(balances.get('tokens'), { used: one, reserved: 1 })
    t.strictSame(await standing(db, 'alice', 'calls'), [one, 1, 999 - one])
    t.strictSame(await violations(db), [])
  })

t.test('while statements are quick, all reservations are summed up', async t => {
  const { db, typeId, heldSince } = await begin(t)
  const hold = WAYS.alike!(heldSince)
  await hold(db, { userId: 'alice', id: v7(), typeId })
  t.equal(heldSince.of(`${typeId} alice`), '00000000-0000-0000-0000-000000000000')
})
