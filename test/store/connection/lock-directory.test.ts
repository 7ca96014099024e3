import { existsSync, statSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PGlite } from '@electric-sql/pglite'
import t from 'tap'
import { declareTypes } from '../../../src/store/catalogue/declare-types.ts'
import { listTypes } from '../../../src/store/catalogue/list-types.ts'
import { commit } from '../../../src/store/charge/commit.ts'
import { connect } from '../../../src/store/connection/connect.ts'
import { lockDirectory } from '../../../src/store/connection/lock-directory.ts'
import { costing, hold, logOf, standing } from '../../fixtures/charges.ts'
import { embeddedDir } from '../../fixtures/database.ts'
import { violations } from '../../fixtures/invariants.ts'
import { child, children } from '../../fixtures/processes.ts'

/** The last tests mostly wait for heartbeats. */
t.jobs = 2

t.test('a second process is refused, naming directory and pid; after kill -9 of the first it takes over', async t => {
  const dataDir = await embeddedDir(t)
  const owner = await child(t)
  t.strictSame(await owner.ask({ do: 'connect', dataDir }), { value: true })
  await owner.ask({ do: 'declare', key: 'kept' })
  await t.rejects(connect({ dataDir }), {
    code: 'FST_QUOTA_DIRECTORY_IN_USE',
    message: new RegExp(`${dataDir}.* ${owner.process.pid},`)
  })
  await owner.kill()
  t.ok(existsSync(join(dataDir, 'fastify-quota.pid')), 'its file is still there')
  const db = await connect({ dataDir })
  t.match(await listTypes(db), [{ key: 'kept', defaultLimit: 7 }])
  await db.close()
})

t.test('two connections of one process share the directory; it stays open until both are closed', async t => {
  const dataDir = await embeddedDir(t)
  const [first, second] = await Promise.all([
    connect({ dataDir }),
    connect({ dataDir: `${dataDir}/../${dataDir.split('/').at(-1)}` })
  ])
  await declareTypes(first, { calls: { limit: 10 } })
  await first.close()
  await first.close()
  t.match(await listTypes(second), [{ key: 'calls' }])
  t.ok(existsSync(join(dataDir, 'fastify-quota.pid')))
  await second.close()
  t.notOk(existsSync(join(dataDir, 'fastify-quota.pid')))
})

t.test('opening the directory while it is being closed waits, and then succeeds', async t => {
  const dataDir = await embeddedDir(t)
  const former = await connect({ dataDir })
  await declareTypes(former, { calls: { limit: 10 } })
  const closing = former.close()
  const [one, other] = await Promise.all([connect({ dataDir }), connect({ dataDir })])
  await closing
  t.match(await listTypes(one), [{ key: 'calls' }])
  await one.close()
  t.match(await listTypes(other), [{ key: 'calls' }])
  await other.close()
})

t.test('tables that no migration fits are reported, and the directory is released for their repair', async t => {
  const dataDir = t.testdir()
  const mending = await PGlite.create(dataDir)
  await mending.query('CREATE TABLE quota_types (id int)')
  await mending.close()
  for (let attempt = 0; attempt < 2; attempt++)
    await t.rejects(connect({ dataDir }), {
      code: 'FST_QUOTA_SCHEMA',
      message: /missing.*not match this version/
    })
  t.notOk(existsSync(join(dataDir, 'fastify-quota.pid')))
  const again = await PGlite.create(dataDir)
  await again.query('DROP TABLE quota_types')
  await again.close()
  await (await connect({ dataDir })).close()
})

t.test('closing and opening again keeps everything', async t => {
  const dataDir = join(t.testdir(), 'not', 'there', 'yet')
  const db = await connect({ dataDir })
  t.equal(statSync(dataDir).mode & 0o777, 0o700, 'for its owner alone')
  await declareTypes(db, { calls: { limit: 10 } })
  await commit(db, 'alice', costing(await hold(db, 'alice', { calls: 3 })), null)
  await hold(db, 'alice', { calls: 2 })
  await db.close()
  const again = await connect({ dataDir })
  t.strictSame(await standing(again, 'alice', 'calls'), [3, 2, 5])
  t.equal((await logOf(again, 'alice')).length, 1)
  t.strictSame(await violations(again), [])
  await again.close()
})

t.test('a lock file whose process is gone, whose pid was reused, or that has no pid keeps nobody out', async t => {
  const dir = t.testdir()
  const file = join(dir, 'fastify-quota.pid')
  for (const owner of ['999999999 1\n', `${process.pid} 1\n`, 'nonsense\n', '']) {
    await writeFile(file, owner)
    const unlock = await lockDirectory(dir)
    t.match(await readFile(file, 'utf8'), new RegExp(`^${process.pid} `), JSON.stringify(owner))
    await unlock()
  }
})

t.test('a lock file of an earlier version, naming no machine, keeps others out while its process lives', async t => {
  const dir = t.testdir()
  const file = join(dir, 'fastify-quota.pid')
  const unlock = await lockDirectory(dir)
  const [pid, started] = (await readFile(file, 'utf8')).split(' ')
  await unlock()
  await writeFile(file, `${pid} ${started}\n`)
  await t.rejects(lockDirectory(dir), { code: 'FST_QUOTA_DIRECTORY_IN_USE', message: new RegExp(`process ${pid},`) })
})

t.test('the lock file is touched even while the event loop is blocked', async t => {
  const dir = t.testdir()
  const unlock = await lockDirectory(dir)
  const touchedMs = () => statSync(join(dir, 'fastify-quota.pid')).mtimeMs
  const before = touchedMs()
  const givenUp = Date.now() + 30_000
  while (touchedMs() === before && Date.now() < givenUp);
  t.not(touchedMs(), before)
  await unlock()
})

t.test(
  'an owner in another container keeps the directory as long as it touches its lock file, and no longer',
  { buffered: true },
  async t => {
    const dir = t.testdir()
    const file = join(dir, 'fastify-quota.pid')
    const unlock = await lockDirectory(dir)
    // A pid that lives here, and one that does not: neither says anything about a process elsewhere.
    for (const pid of [process.pid, 999999999]) {
      await writeFile(file, `${pid} 1 elsewhere\n`)
      await t.rejects(lockDirectory(dir), {
        code: 'FST_QUOTA_DIRECTORY_IN_USE',
        message: new RegExp(`${dir}.* process ${pid} of another container or machine,`)
      })
    }
    await unlock()
    t.equal(await readFile(file, 'utf8'), '999999999 1 elsewhere\n', 'unlocking leaves a file that another owner wrote')
    const unlockNext = await lockDirectory(dir)
    t.match(await readFile(file, 'utf8'), new RegExp(`^${process.pid} `))
    await unlockNext()
    t.notOk(existsSync(file))
  }
)

t.test(
  'of several processes at once exactly one gets the directory, even where the lock file of a dead one is left',
  { buffered: true },
  async t => {
    const contenders = await children(t, 4)
    const base = t.testdir()
    const winners: number[] = []
    for (let round = 0; round < 41; round++) {
      const dir = join(base, String(round))
      await mkdir(dir)
      if (round % 2 === 1) await writeFile(join(dir, 'fastify-quota.pid'), '999999999 1\n')
      if (round === 40)
        for (const name of ['fastify-quota.pid', 'fastify-quota.pid.takeover'])
          await writeFile(join(dir, name), '1 1 elsewhere\n')
      const at = Date.now() + 20
      const answers = await Promise.all(contenders.map(contender => contender.ask({ do: 'lock', dir, at })))
      winners.push(answers.filter(answer => answer.value === true).length)
      for (const { value, code } of answers) if (value !== true) t.equal(code, 'FST_QUOTA_DIRECTORY_IN_USE')
    }
    t.strictSame(
      winners,
      winners.map(() => 1)
    )
  }
)
