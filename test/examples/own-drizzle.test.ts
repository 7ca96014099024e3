import { execFile } from 'node:child_process'
import { cp, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { example } from '../fixtures/example.ts'

const root = resolve(import.meta.dirname, '../..')
const migrations = join(root, 'examples/own-drizzle/migrations')

t.test('keeps quotas and notes in one database', async t => {
  const { app } = await example(t, 'own-drizzle')
  const write = (text: string) =>
    app.inject({ method: 'POST', url: '/notes', headers: { 'x-user-id': 'alice' }, payload: { text } })

  for (const remaining of [4, 3, 2, 1, 0]) {
    const reply = await write('milk')
    t.equal(reply.statusCode, 201)
    t.match(reply.json(), { owner: 'alice', text: 'milk' })
    t.match(reply.headers, { 'x-quota-type': 'notes', 'x-quota-remaining': String(remaining) })
  }
  const denied = await write('bread')
  t.equal(denied.statusCode, 402)
  t.match(denied.json(), { quota_type: 'notes', limit: 5, used: 5, required: 1 })

  const statistics = await app.inject({ url: '/notes/statistics', headers: { 'x-user-id': 'alice' } })
  t.strictSame(statistics.json(), { notes: 5, charged: 5 }, 'a note that was refused is neither kept nor charged')
})

t.test('its migrations match the schema of this version', async t => {
  const out = await mkdtemp(join(tmpdir(), 'quota-migrations-'))
  t.teardown(() => rm(out, { recursive: true, force: true }))
  await cp(migrations, join(out, 'migrations'), { recursive: true })
  const config = {
    dialect: 'postgresql',
    schema: './examples/own-drizzle/schema.ts',
    // Relative, because drizzle-kit always puts ./ before it.
    out: relative(root, join(out, 'migrations'))
  }
  await writeFile(join(out, 'drizzle.config.json'), JSON.stringify(config))
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [join(root, 'node_modules/drizzle-kit/bin.cjs'), 'generate', '--config', join(out, 'drizzle.config.json')],
    { cwd: root, env: { ...process.env, NODE_OPTIONS: '' } }
  )
  t.match(stdout, 'No schema changes', 'run drizzle-kit generate for examples/own-drizzle')
  t.strictSame(await readdir(join(out, 'migrations')), await readdir(migrations))
})
