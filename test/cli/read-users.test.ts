import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { readUsers } from '../../src/cli/read-users.ts'

function file(t: Test, content: string | Buffer): string {
  const dir = mkdtempSync(join(tmpdir(), 'quota-csv-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const path = join(dir, 'users.csv')
  writeFileSync(path, content)
  return path
}

const read = (t: Test, content: string | Buffer) => readUsers(file(t, content)).users
const plain = (id: string) => ({ id, email: null, timeZone: null, periodAnchor: null })

t.test('takes the id from the first column unless a header names another', async t => {
  t.strictSame(read(t, 'alice\nbob,whatever\n'), [plain('alice'), plain('bob')])
  t.strictSame(read(t, 'alice'), [plain('alice')])
  t.strictSame(read(t, 'login,email\nalice,a@example.com'), [{ ...plain('alice'), email: 'a@example.com' }])
})

t.test('reads the columns that a header names, in any order, and ignores others', async t => {
  const csv =
    'name,Time_Zone,user_id,period_anchor,email\nAlice,Europe/Berlin,a-1,2024-02-29,a@example.com\nBob,,b-2,,\n'
  t.strictSame(read(t, csv), [
    { id: 'a-1', email: 'a@example.com', timeZone: 'Europe/Berlin', periodAnchor: '2024-02-29' },
    plain('b-2')
  ])
  t.strictSame(read(t, 'email,id\nx@example.com,7\n'), [{ ...plain('7'), email: 'x@example.com' }])
})

t.test('lists the columns that it ignores', async t => {
  const passedOver = (csv: string) => readUsers(file(t, csv)).passedOver
  t.strictSame(passedOver('user_id, Mail ,email,,timezone\na,b,c@example.com,d,e\n'), ['Mail', 'timezone'])
  t.strictSame(passedOver('login,email,name\n'), ['name'], 'the first column is the id here')
  t.strictSame(passedOver('alice\nbob,whatever\n'), [], 'without a header no column has a name')
})

t.test('refuses a header that names a known column twice, such as id and user_id, and says which', async t => {
  const refused = (header: string, told: string) =>
    t.throws(() => read(t, `${header}\n1,2,\n`), {
      message: new RegExp(`nothing was written:\\n  line 1: it names ${told}; leave one column out`)
    })
  refused('ID,name,user_id', 'both id and user_id')
  refused('user_id,id', 'both user_id and id')
  refused('id,email,Email', 'email twice')
})

t.test('reads quotes, commas and line breaks within them, CRLF, blank lines, and a byte order mark', async t => {
  t.strictSame(read(t, '\ufeffid\r\n"a, ""b"""\r\n\r\nc\r\n'), [plain('a, "b"'), plain('c')])
  const broken = 'id,note,email\nalice,"two\nlines",\n'
  t.strictSame(read(t, `${broken}bob,,\n`), [plain('alice'), plain('bob')])
  t.throws(() => read(t, `${broken}bob,,nowhere\n`), { message: /line 4: / }, 'lines are counted as an editor does')
})

t.test('takes spaces around an id only where it is quoted, and drops those around other cells', async t => {
  t.strictSame(read(t, 'email,id\n a@example.com ," x"\n,x\n,"x "\n'), [
    { ...plain(' x'), email: 'a@example.com' },
    plain('x'),
    plain('x ')
  ])
  t.strictSame(read(t, '" x"\nx\n'), [plain(' x'), plain('x')], 'without a header, too')
  const refused = (csv: string, told: RegExp) => t.throws(() => read(t, csv), { message: told }, csv)
  refused('id,email\nbob,\n alice,\n', /\n {2}line 3: the id ' alice' begins or ends with white space; .* quote the id/)
  refused('alice \n', /\n {2}line 1: the id 'alice ' begins or ends with white space; remove that, or quote/)
  refused('email,id\n"a@example.com", alice\n', /line 2: the id ' alice' begins/)
})

t.test('returns no users for a file without rows', async t => {
  t.strictSame(read(t, ''), [])
  t.strictSame(read(t, 'user_id,email\n'), [])
})

t.test('refuses a file with invalid lines, and names the number of each', async t => {
  const lines = [
    'id,email,time_zone,period_anchor',
    ',,,',
    'ok,,,',
    'x,not-an-address,,',
    'y,,Mars/Olympus,',
    'z,,+02:00,',
    'u,,,2026-02-30',
    'v,,,31.01.2026',
    'ok,,,',
    `${'l'.repeat(256)},,,`
  ]
  const refused = t.throws(() => read(t, lines.join('\n'))) as unknown as Error
  t.match(refused, { message: /was refused, and nothing was written/ })
  const numbers = String(refused.message).match(/line \d+(?=:)/g)
  t.strictSame(numbers, ['line 2', 'line 4', 'line 5', 'line 6', 'line 7', 'line 8', 'line 9', 'line 10'])
  t.match(refused.message, /the id 'ok' is already on line 3/)
  const many = t.throws(() => read(t, `id,email\n${'x,y\n'.repeat(23)}`)) as unknown as Error
  t.match(many.message, /\n {2}line 21: .*\n {2}and 3 more lines$/)
})

t.test('refuses a file in another format, whose lines would each become a user, and says what helps', async t => {
  const refused = (content: string, message: RegExp) => t.throws(() => read(t, content), { message }, content)
  const separators = /refused, and nothing was written:\n {2}line 1: .* semicolons or tabs; use commas, or .* user_id$/
  for (const csv of ['id;email\nalice;a@example.com', 'id\temail\nalice\ta@example.com', 'sep=;\nid;email\nalice;'])
    refused(csv, separators)
  refused('alice\nbob;b@example.com', /line 2: 'bob;b@example\.com' is separated by semicolons/)
  const header = /line 1: it names no known column; begin with a line such as user_id,email,/
  for (const csv of ['login,name\nalice,Alice', 'User ID,E-mail\nalice,a@example.com', 'alice,Alice\nbob,Bob'])
    refused(csv, header)
  t.strictSame(read(t, 'user_id\na;b\n'), [plain('a;b')], 'an id may contain a semicolon')
  t.strictSame(read(t, 'alice,\nbob,\n'), [plain('alice'), plain('bob')], 'and a line may end in an empty column')
})

t.test('refuses a file that is not CSV or not UTF-8, or does not exist', async t => {
  t.throws(() => read(t, 'id\n"open'), { message: /cannot be read as CSV, line 2: Quote Not Closed/ })
  t.throws(() => read(t, Buffer.from([0x61, 0xff, 0x0a])), { message: /cannot be read as CSV/ })
  t.throws(() => readUsers('/nowhere/users.csv'), { message: /cannot be read as CSV: ENOENT/ })
})
