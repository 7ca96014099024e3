import t from 'tap'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { open } from '../../src/store/connection/connect.ts'
import { findDiscrepancies } from '../../src/store/operator/reconcile.ts'
import { built } from '../fixtures/built.ts'
import { auditOf, costing, hold, standing } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'

const RIGHT = 'Every counter is the sum of its log rows and reservations.\n'

t.test('fastify-quota reconcile --fix', async t => {
  const [build, pg] = await Promise.all([built(t), server(t)])
  const DATABASE_URL = await pg.migrated()
  const run = (...args: string[]) => build.run('cli/main.js', ['reconcile', ...args], { DATABASE_URL })
  const db = await open(DATABASE_URL)
  t.teardown(() => db.close())
  await declareTypes(db, { calls: { limit: 10 }, more: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 2, more: 1 })), null)
  await hold(db, 'alice', { calls: 3 })

  t.test('sets wrong counters to their sums, prints the old and new values, and exits with 0', async t => {
    t.match(await run('--fix'), { code: 0, stdout: RIGHT, stderr: '' })
    t.strictSame(await auditOf(db, 'alice'), [])
    await db.query('UPDATE quota_limits SET used_amount = 9')
    t.match(await run('--fix', '--reason', 'ticket 4711'), {
      code: 0,
      stderr: '',
      stdout: /^alice +calls +\S+Z +9 → 5 +2 +3\nalice +more +\S+Z +9 → 1 +1 +0\n\n2 counters were repaired\.\n$/m
    })
    t.strictSame(await standing(db, 'alice', 'calls'), [2, 3, 5])
    t.match(await auditOf(db, 'alice'), [
      {
        actor: 'fastify-quota reconcile',
        action: 'reconcile',
        quota_type: 'calls',
        before: { used: 6, reserved: 3 },
        after: { used: 2, reserved: 3 },
        reason: 'ticket 4711',
        request_id: null
      },
      { quota_type: 'more', before: { used: 9, reserved: 0 }, after: { used: 1, reserved: 0 } }
    ])
    t.match(await run('--fix'), { code: 0, stdout: RIGHT })
    t.match(await run(), { code: 0, stdout: RIGHT })
  })

  t.test('--json prints each counter before and after, or an empty array if all are right', async t => {
    await db.query('UPDATE quota_limits SET used_amount = 9 WHERE used_amount = 5')
    const { code, stdout } = await run('--fix', '--json')
    t.equal(code, 0)
    const [{ period_start, ...fix }, ...others] = JSON.parse(stdout)
    t.strictSame(others, [])
    t.ok(Date.parse(period_start) <= Date.now())
    t.strictSame(fix, {
      user_id: 'alice',
      quota_type: 'calls',
      before: { used_amount: 9 },
      after: { used_amount: 5 },
      logged: 2,
      held: 3,
      obstacle: null
    })
    t.match(await run('--fix', '--json'), { code: 0, stdout: '[]\n' })
    t.equal((await auditOf(db, 'alice')).at(-1)?.reason, null)
  })

  t.test('says what it cannot repair and why, repairs the rest, and exits with 1', async t => {
    await db.query('UPDATE usage_logs SET amount = -1 WHERE amount = 1')
    await db.query('UPDATE quota_limits SET used_amount = 8 WHERE used_amount = 5')
    t.match(await run('--fix'), {
      code: 1,
      stdout:
        /^alice +calls +\S+Z +8 → 5 +2 +3\nalice +more +\S+Z +1 +-1 +0 +not repaired: its log rows sum up to less than 0\n\n1 counter was repaired\.\n1 counter was not repaired: correct the rows in usage_logs, and run this again\.\n$/m
    })
    const { code, stdout } = await run('--fix', '--json')
    t.equal(code, 1)
    t.match(JSON.parse(stdout), [
      {
        quota_type: 'more',
        before: { used_amount: 1 },
        after: { used_amount: 1 },
        logged: -1,
        obstacle: 'its log rows sum up to less than 0'
      }
    ])
    t.equal((await findDiscrepancies(db)).length, 1)
    await db.query('UPDATE usage_logs SET amount = 1 WHERE amount = -1')
    t.match(await run('--fix'), { code: 0, stdout: RIGHT })
  })

  t.test('refuses a --reason without --fix, or of an invalid length, and changes nothing', async t => {
    await db.query('UPDATE quota_limits SET used_amount = 9')
    t.match(await run('--reason', 'because'), { code: 2, stdout: '', stderr: /--reason .* use it with --fix/ })
    t.match(await run('--fix', '--reason', ''), { code: 2, stdout: '' })
    t.match(await run('--fix', '--reason', 'x'.repeat(1001)), { code: 2, stderr: /1 to 1000 characters/ })
    t.match(await run(), { code: 1, stdout: /\n2 counters are not the sum of log rows and reservations\.\n$/ })
    t.equal((await findDiscrepancies(db)).length, 2)
  })
})

t.test('fastify-quota reconcile --fix repairs the embedded database', async t => {
  const build = await built(t)
  const dataDir = `${build.dir}/data`
  const db = await open({ dataDir })
  await declareTypes(db, { calls: { limit: 10 } })
  await hold(db, 'alice', { calls: 3 })
  await db.query('UPDATE quota_limits SET used_amount = 9')
  await db.close()
  const { code, stdout } = await build.run('cli/main.js', ['reconcile', '--fix', '--data-dir', dataDir])
  t.match(stdout, /^alice +calls +\S+Z +9 → 3 +0 +3\n\n1 counter was repaired\.\n$/m)
  t.equal(code, 0)
})
