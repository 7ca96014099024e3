import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type Built, bash, built, type Running } from '../fixtures/built.ts'
import { clockAt } from '../fixtures/clock.ts'
import { type Command, commandsOf, comparable, fences } from '../fixtures/page.ts'

const docs = join(import.meta.dirname, '../../docs')
const page = await readFile(join(docs, 'admin.md'), 'utf8')
const commands = commandsOf(page)
const isShell = ({ command }: Command): boolean => command.startsWith('npx ')

const ADMIN_TOKEN = 'an-admin-token-of-24-ch.'
const ENVIRONMENT = {
  ADMIN_TOKEN,
  JWT_SECRET: 'a-jwt-secret-of-at-least-32-characters',
  QUOTA_DATA_DIR: 'data',
  // A clock that starts at a fixed time: no midnight passes during the run, and dates match those on the page.
  ...clockAt('2026-11-24T10:00:00Z')
}
const LOCAL = 'http://localhost:7500'

t.test("the operator's handbook", async t => {
  const build = await built(t)
  const { server, url } = await start(build)
  await makeHistory(build, url)
  const run = runner(build, url)

  t.test('shows the real answer to each request', async t => {
    for (const command of commands.filter(command => !isShell(command))) await isAnswered(t, command, run)
  })

  t.test('lists five requests of the replaced system, which all succeed', async t => {
    const lines = fences(page, 'bash').flatMap(text => text.trim().split('\n'))
    t.equal(lines.length, 5)
    for (const line of lines) JSON.parse(await run(line.replace('curl', 'curl --fail')))
  })

  t.test('shows every admin route of the OpenAPI document', async t => {
    const { paths } = (await (await fetch(`${url}/docs/json`)).json()) as { paths: Record<string, object> }
    const operations = Object.entries(paths)
      .filter(([path]) => path.startsWith('/admin/quotas/'))
      .flatMap(([path, methods]) => Object.keys(methods).map(method => ({ method: method.toUpperCase(), path })))
    t.ok(operations.length >= 12)
    for (const { method, path } of operations) {
      const pattern = new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]+')}$`)
      const isShown = commands.some(({ command }) => methodOf(command) === method && pattern.test(pathOf(command)))
      t.ok(isShown, `${method} ${path}`)
    }
  })

  t.test('shows the real output of each command', async t => {
    server.child.kill('SIGTERM')
    t.equal((await server.ended).code, 0)
    for (const command of commands.filter(isShell)) await isAnswered(t, command, run)
  })
})

t.test('links to headings and files that exist', async t => {
  const headings = [...page.matchAll(/^#+ (.+)$/gm)].map(([, text]) =>
    (text as string)
      .toLowerCase()
      .replaceAll(/[^\w -]/g, '')
      .replaceAll(' ', '-')
  )
  for (const [, target] of page.matchAll(/\]\((?!https?:)([^)]+)/g)) {
    const [file, heading] = (target as string).split('#')
    if (file === '') t.ok(headings.includes(heading as string), String(target))
    else t.ok(existsSync(join(docs, file as string)), String(target))
  }
})

const methodOf = (command: string): string => /-X (\w+)/.exec(command)?.[1] ?? 'GET'
const pathOf = (command: string): string => /http:\/\/localhost:7500([^\s"?]*)/.exec(command)?.[1] ?? ''

type Run = (command: string) => Promise<string>

/** Each cursor shown on the page, and the one that the server really returned. */
const cursors: [shown: string, real: string][] = []

/** Runs a command and compares its answer with the page; a cursor shown there is replaced by the one the server returned. */
async function isAnswered(t: Test, { command, language, answer }: Command, run: Run): Promise<void> {
  const output = await run(cursors.reduce((text, [shown, real]) => text.replace(shown, real), command))
  t.equal(comparable(language, output), comparable(language, answer), command)
  if (language !== 'json') return
  const [shown, real] = [JSON.parse(answer).next_cursor, JSON.parse(output).next_cursor]
  if (typeof shown === 'string' && typeof real === 'string') cursors.push([shown, real])
}

/** Runs a command as shown, but with the real paths of server and package; resolves with what it prints or writes into a file. */
const runner =
  ({ dir }: Built, url: string): Run =>
  async command => {
    const here = command.replace(LOCAL, url).replace(/^npx fastify-quota/, 'node ../dist/cli/main.js')
    const { code, stdout, stderr } = await bash(`cd '${dir}' && ${here}`, ENVIRONMENT)
    if (code !== 0) throw new Error(`ended with ${code}: ${command}\n${stdout}\n${stderr}`)
    const [, file] = / -o (\S+)/.exec(command) ?? []
    return file === undefined ? stdout : await readFile(join(dir, file), 'utf8')
  }

async function start({ start }: Built): Promise<{ server: Running; url: string }> {
  const server = start('server/main.js', [], { ...ENVIRONMENT, PORT: '0' })
  const [, url] = /listens on (http:\/\/[^,]+),/.exec(await server.until('/usage-logs')) as unknown as [string, string]
  return { server, url }
}

/** Makes the history that the page describes, through the routes of the API, each user with a token of their own. */
async function makeHistory({ run }: Built, url: string): Promise<void> {
  const client = async (user: string) => {
    const { stdout } = await run('cli/main.js', ['token', '--user', user], ENVIRONMENT)
    return (path: string, status = 202, bytes = 0) =>
      send(url + path, status, {
        method: 'POST',
        headers: { authorization: `Bearer ${stdout.trim()}` },
        ...(bytes === 0 ? {} : { body: Buffer.alloc(bytes) })
      })
  }
  const [alice, bob, carol, brien] = await Promise.all([
    client('alice'),
    client('bob'),
    client('carol'),
    client("O'Brien")
  ])
  const detect = '/l3_detect/p/2026-01-31'
  for (let i = 0; i < 3; i++) await alice(detect)
  await alice('/process/p/2026-01-31')
  await alice('/upload_dicom_zip', 201, 4096)
  await carol('/continue_after_l3/p/2026-01-31')
  await brien('/process/p/2026-01-31')
  // bob must exist before an operator can limit him.
  await bob(detect)
  await send(`${url}/admin/quotas/users/bob/adjust?quota_type=api_calls_l3_detect&new_limit=5`, 200, {
    method: 'PUT',
    headers: { 'x-admin-token': ADMIN_TOKEN }
  })
  for (const status of [202, 202, 202, 202, 402, 402]) await bob(detect, status)
}

async function send(url: string, status: number, init: RequestInit): Promise<void> {
  const reply = await fetch(url, init)
  const answer = await reply.text()
  if (reply.status !== status) throw new Error(`${init.method} ${url}: ${reply.status} ${answer}`)
}
