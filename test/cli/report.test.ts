import { setTimeout } from 'node:timers/promises'
import { parse } from 'csv-parse/sync'
import t from 'tap'
import { UsageError, type Values } from '../../src/cli/command.ts'
import { report as command } from '../../src/cli/report.ts'
import { declareTypes } from '../../src/store/catalogue/declare-types.ts'
import { commit } from '../../src/store/charge/commit.ts'
import { ensureUser } from '../../src/store/charge/ensure-user.ts'
import { open } from '../../src/store/connection/connect.ts'
import type { Database } from '../../src/store/database.ts'
import { built } from '../fixtures/built.ts'
import { type Amounts, costing, hold } from '../fixtures/charges.ts'
import { server } from '../fixtures/database.ts'

const HEADER = 'user_id,quota_type,unit,used,limit,usage_percent,calls,denials'
const NOVEMBER = new Date('2026-11-10T12:00:00Z')

t.test('fastify-quota report', async t => {
  const [build, pg] = await Promise.all([built(t), server(t)])
  const report = (url: string, ...args: string[]) =>
    build.run('cli/main.js', ['report', ...args], { DATABASE_URL: url })
  const prepared = async () => {
    const url = await pg.migrated()
    const db = await open(url)
    t.teardown(() => db.close())
    return { url, db }
  }
  const use = async (db: Database, userId: string, amounts: Amounts, at?: Date) =>
    commit(db, userId, costing(await hold(db, userId, amounts, { at })), null)

  const { url, db } = await prepared()
  await declareTypes(db, {
    calls: { limit: 40 },
    files: { limit: 0, unit: 'file' },
    tokens: { limit: -1, unit: 'token', period: 'day' }
  })
  await use(db, 'alice', { calls: 5, tokens: 7 }, NOVEMBER)
  await use(db, '=cmd|"calc",1', { calls: 1 }, NOVEMBER)
  await db.query(
    `INSERT INTO quota_denials (user_id, quota_type_id, hour, denials)
     SELECT 'alice', id, '2026-11-10T12:00:00Z', 3 FROM quota_types WHERE type_key = 'files'`
  )
  const november = (...args: string[]) => report(url, '--month', '2026-11', ...args)
  const expected = [
    ['=cmd|"calc",1', 'calls', 'call', 1, 40, 2.5, 1, 0],
    ['alice', 'calls', 'call', 5, 40, 12.5, 1, 0],
    ['alice', 'files', 'file', 0, 0, 100, 0, 3],
    ['alice', 'tokens', 'token', 7, -1, null, 1, 0]
  ]

  t.test('prints a table, with the share of each limit', async t => {
    const printed = await november()
    t.match(printed, { code: 0, stderr: '' })
    t.strictSame(
      printed.stdout.split('\n').map(line => line.split(/ {2,}/)),
      [
        ['USER', 'TYPE', 'UNIT', 'USED', 'LIMIT', 'SHARE', 'CALLS', 'DENIALS'],
        ['=cmd|"calc",1', 'calls', 'call', '1', '40', '2.5 %', '1', '0'],
        ['alice', 'calls', 'call', '5', '40', '12.5 %', '1', '0'],
        ['alice', 'files', 'file', '0', '0', '100 %', '0', '3'],
        ['alice', 'tokens', 'token', '7', 'unlimited', '-', '1', '0'],
        ['']
      ]
    )
    t.equal((await november('--format', 'text')).stdout, printed.stdout, '--format text prints the same')
  })

  t.test('prints JSON, as a single array', async t => {
    const { code, stdout } = await november('--format', 'json')
    t.equal(code, 0)
    const keys = HEADER.split(',')
    t.strictSame(
      JSON.parse(stdout),
      expected.map(cells => Object.fromEntries(keys.map((key, i) => [key, cells[i]])))
    )
  })

  t.test('prints CSV that parses back, with each line ended by CRLF and no formula among the ids', async t => {
    const { code, stdout } = await november('--format', 'csv')
    t.equal(code, 0)
    t.strictSame(stdout.split('\r\n'), [
      HEADER,
      '"\'=cmd|""calc"",1",calls,call,1,40,2.5,1,0',
      'alice,calls,call,5,40,12.5,1,0',
      'alice,files,file,0,0,100,0,3',
      'alice,tokens,token,7,-1,,1,0',
      ''
    ])
    t.equal(stdout.match(/[\r\n]/g)!.length, 5 * 2)
    t.equal(parse(stdout, { columns: true }).length, 4)
  })

  t.test('prints a sentence as text, and an empty result in other formats, for an unused month', async t => {
    const empty = (format: string) => report(url, '--month', '2025-01', '--format', format)
    t.strictSame(await empty('text'), { code: 0, stdout: 'Nothing was used or denied in 2025-01.\n', stderr: '' })
    t.strictSame(await empty('json'), { code: 0, stdout: '[]\n', stderr: '' })
    t.strictSame(await empty('csv'), { code: 0, stdout: `${HEADER}\r\n`, stderr: '' })
  })

  t.test('reports the current month if none is given', async t => {
    const { url, db } = await prepared()
    await declareTypes(db, { calls: { limit: 3 } })
    await use(db, 'alice', { calls: 1 }, new Date('2020-01-01'))
    await use(db, 'alice', { calls: 2 })
    t.match(await report(url), { code: 0, stdout: /\nalice +calls +call +2 +3 +66\.67 % +1 +0\n$/ })
  })

  t.test('prints the usage and exits with 2 on an invalid month, format or flag', async t => {
    for (const args of [
      ['--month', '2026-13'],
      ['--format', 'xml'],
      ['--mont', '2026-11']
    ])
      t.match(await report(url, ...args), { code: 2, stdout: '', stderr: /\n\nUsage: fastify-quota report \[flags\]/ })
    const refused = (values: Values, message: RegExp) =>
      t.rejects(
        command.run({ 'database-url': url, ...values }, () => {}),
        { constructor: UsageError, message }
      )
    for (const month of [
      '2026-13',
      '2026-00',
      'nov',
      '0000-01',
      '1969-12',
      '9999-12',
      '2026-1',
      '2026-11-01',
      ' 2026-11'
    ])
      await refused({ month }, /^--month must be a month such as 2026-11, .* is '.*'\.$/)
    for (const format of ['xml', 'CSV', 'constructor'])
      await refused({ format }, /^--format must be text, csv or json, but is '.*'\.$/)
    for (const month of ['1970-01', '9999-11'])
      t.equal(await command.run({ 'database-url': url, month }, () => {}), 0, month)
  })

  t.test('fails if the database or its tables are missing, and says which', async t => {
    t.match(await build.run('cli/main.js', ['report', '--data-dir', 'nowhere']), {
      code: 1,
      stdout: '',
      stderr: /There is no embedded database in nowhere/
    })
    t.match(await report(await pg.empty()), {
      code: 1,
      stdout: '',
      stderr: /quota tables are not as this version needs/
    })
  })

  t.test('names the user whose time zone is invalid', async t => {
    const { url, db } = await prepared()
    await db.query("INSERT INTO quota_users (id, time_zone) VALUES ('bob', 'Mars/Olympus')")
    t.match(await report(url), {
      code: 1,
      stderr: /^fastify-quota report: user 'bob': .*time_zone Mars\/Olympus, which is not an IANA name/
    })
  })

  t.test(
    'prints a long report completely to a slow reader, and exits silently when the reader closes the pipe',
    async t => {
      const { url, db } = await prepared()
      await declareTypes(db, { calls: { limit: 3 } })
      await ensureUser(db, 'user-0', [], NOVEMBER)
      await db.query("INSERT INTO quota_users (id) SELECT repeat('x', 200) || n FROM generate_series(1, 4000) n")
      await db.query(
        `INSERT INTO quota_limits (user_id, quota_type_id, limit_amount, used_amount, period_start, period_end)
       SELECT u.id, l.quota_type_id, 3, 1, l.period_start, l.period_end FROM quota_limits l, quota_users u WHERE u.id <> l.user_id`
      )
      const month = (format: string) =>
        build.start('cli/main.js', ['report', '--month', '2026-11', '--format', format], { DATABASE_URL: url })
      const slowly = async (format: string) => {
        const { child, ended } = month(format)
        child.stdout!.pause()
        child.stdout!.setEncoding('utf8')
        await setTimeout(2_500)
        child.stdout!.resume()
        return await ended
      }
      const text = await slowly('text')
      t.match(text, { code: 0, stderr: '' })
      t.equal(text.stdout.split('\n').length, 4002)
      t.equal(JSON.parse((await slowly('json')).stdout).length, 4000)
      for (const format of ['csv', 'text']) {
        const { child, ended } = month(format)
        child.stdout!.once('data', () => child.stdout!.destroy())
        t.match(await ended, { code: 141, stderr: '' }, format)
      }
    }
  )
})
