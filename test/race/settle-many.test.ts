// What many requests charge or give back in one statement, and what that leaves to others.
import t, { type Test } from 'tap'
import { v7 } from 'uuid'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import type { AdmittedCharge } from '../../src/store/charge/admit.ts'
import { counterKey, HeldSince, LEAST_ID } from '../../src/store/charge/held-since.ts'
import { connect } from '../../src/store/connection/connect.ts'
import { Spending } from '../../src/store/group/charge-at-once.ts'
import type { Settlement } from '../../src/store/group/move-one-user.ts'
import { SettlingMany } from '../../src/store/group/settle-many.ts'
import { hold, logOf, standing } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'
import { violations } from '../fixtures/invariants.ts'
import { PATIENCE_MS } from '../fixtures/reserving.ts'

const pg = await server(t)

async function begin(t: Test) {
  const db = await connect({ url: await pg.migrated() }, { storeTimeoutMs: PATIENCE_MS })
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 100 }, tokens: { limit: 100 } })
  const heldSince = new HeldSince(PATIENCE_MS)
  const { one, several } = new SettlingMany(heldSince)
  return {
    db,
    heldSince,
    settle: (all: readonly Settlement[]) => one(db.charging, all),
    settleSeveral: (all: readonly (readonly Settlement[])[]) =>
      several(
        db.charging,
        all.map(settlements => ({ settlements }))
      )
  }
}

const released = (userId: string, { id, typeId }: AdmittedCharge): Settlement => ({ do: 'release', userId, id, typeId })
const charged = (userId: string, { id, typeId }: AdmittedCharge, amount: number): Settlement => {
  return { do: 'commit', userId, id, typeId, amount, endpoint: '/a', metadata: { amount } }
}

const figuresOf = (
  moved: { done: boolean; used_amount: number; reserved_amount: number; limit_amount: number } | undefined
) => moved && [moved.done, moved.used_amount, moved.reserved_amount, moved.limit_amount]

t.test('each is charged or given back, and told its counter afterwards', async t => {
  const { db, settle } = await begin(t)
  const [first, second, third] = [
    await hold(db, 'alice', { calls: 5 }),
    await hold(db, 'alice', { calls: 7 }),
    await hold(db, 'alice', { calls: 9 })
  ] as [[AdmittedCharge], [AdmittedCharge], [AdmittedCharge]]
  const [other] = (await hold(db, 'bob', { calls: 3 })) as [AdmittedCharge]
  const told = await settle([
    charged('bob', other, 0),
    released('alice', first[0]),
    { ...released('carol', other) },
    charged('alice', second[0], 11),
    released('alice', { ...first[0], id: v7() } as AdmittedCharge)
  ])
  t.strictSame(told.map(figuresOf), [
    [true, 0, 0, 100],
    [true, 20, 9, 100],
    undefined,
    [true, 20, 9, 100],
    [false, 20, 9, 100]
  ])
  t.strictSame(await standing(db, 'alice', 'calls'), [11, 9, 80])
  t.same(
    (await logOf(db, 'alice')).map(([amount]) => amount),
    [11]
  )
  t.same(
    (await logOf(db, 'bob')).map(([amount]) => amount),
    [0],
    'what costs nothing is logged'
  )
  t.strictSame((await settle([released('alice', first[0]), charged('alice', third[0], 1)])).map(figuresOf), [
    [false, 12, 0, 100],
    [true, 12, 0, 100]
  ])
  t.strictSame(await violations(db), [])
})

t.test('of a request that holds several, all is settled or nothing', async t => {
  const { db, settleSeveral } = await begin(t)
  const [calls, tokens] = (await hold(db, 'alice', { calls: 5, tokens: 6 })) as [AdmittedCharge, AdmittedCharge]
  const both = (await hold(db, 'alice', { calls: 1, tokens: 2 })) as [AdmittedCharge, AdmittedCharge]
  await db.query('DELETE FROM quota_reservations WHERE id = $1', [tokens.id])
  await db.query("UPDATE quota_limits SET used_amount = used_amount - 6 WHERE used_amount = 8 AND user_id = 'alice'")
  const told = await settleSeveral([
    [charged('alice', calls, 4), charged('alice', tokens, 4)],
    [charged('alice', both[0], 3), released('alice', both[1])]
  ])
  t.strictSame(
    told.map(request => request.map(figuresOf)),
    [
      [
        [false, 8, 5, 100],
        [false, 0, 0, 100]
      ],
      [
        [true, 8, 5, 100],
        [true, 0, 0, 100]
      ]
    ]
  )
  t.strictSame(await standing(db, 'alice', 'calls'), [3, 5, 92])
  t.strictSame(await violations(db), [])
})

t.test('what was admitted so long ago that it leaves a mark is left to others', async t => {
  const { db, settle, settleSeveral } = await begin(t)
  const [old] = (await hold(db, 'alice', { calls: 5 })) as [AdmittedCharge]
  await db.query(
    `UPDATE quota_reservations SET created_at = now() - interval '16 minutes', period_start = now() - interval '1 day'`
  )
  for (const table of ['quota_periods', 'quota_limits'])
    await db.query(
      `UPDATE ${table} SET period_start = (SELECT period_start FROM quota_reservations) WHERE quota_type_id = $1`,
      [old.typeId]
    )
  t.strictSame((await settle([released('alice', old)])).map(figuresOf), [[false, 5, 5, 100]])
  t.strictSame((await settleSeveral([[charged('alice', old, 1)]])).flat().map(figuresOf), [[false, 5, 5, 100]])
  t.strictSame(await standing(db, 'alice', 'calls'), [0, 5, 95])
})

t.test('sums of what is held begin at the oldest that is open', async t => {
  const { db, heldSince, settle } = await begin(t)
  const [old, young] = [await hold(db, 'alice', { calls: 5 }), await hold(db, 'alice', { calls: 7 })] as [
    [AdmittedCharge],
    [AdmittedCharge]
  ]
  const id = v7({ msecs: Date.now() - 300_000 })
  await db.query(`UPDATE quota_reservations SET id = $1, created_at = now() - interval '5 minutes' WHERE id = $2`, [
    id,
    old[0].id
  ])
  const counter = counterKey('alice', old[0].typeId)
  const { ofMany } = new Spending(heldSince)
  const spend = () =>
    ofMany(db.charging, [
      {
        userId: 'alice',
        id: v7(),
        typeId: old[0].typeId,
        amount: 1,
        endpoint: null,
        metadata: {},
        idempotencyKey: null
      }
    ])
  for (const [way, move] of Object.entries({ settle: () => settle([released('alice', young[0])]), spend })) {
    heldSince.learn(counter, LEAST_ID)
    await move()
    t.ok(heldSince.of(counter) > LEAST_ID && heldSince.of(counter) < id, `${way}: ${heldSince.of(counter)}`)
    heldSince.learn(counter, v7())
    t.equal((await spend())[0]?.reserved_amount, 0, 'what is older than that is not looked at')
  }
})
