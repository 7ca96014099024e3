import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { bin, install, pack, ROOT, run, start } from '../fixtures/tarball.ts'

const tarball = await pack(t)
const project = await install(t, tarball)

t.test('the tarball has the compiled code, the migrations and the documents, and nothing else', async t => {
  const foreign = tarball.paths.filter(
    path =>
      !/^(dist\/.+\.(js|d\.ts)|drizzle\/.+\.(sql|json)|README\.md|LICENSE|CHANGELOG\.md|package\.json)$/.test(path)
  )
  t.strictSame(foreign, [])
  const { main, types, bin, exports } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'))
  const named = [main, types, ...Object.values(bin), ...Object.values(exports).flatMap(e => Object.values(e as object))]
  for (const path of named.filter(path => path.startsWith('./')))
    t.ok(tarball.paths.includes(path.slice(2)), `${path} is there`)
  for (const path of ['README.md', 'LICENSE', 'CHANGELOG.md', 'drizzle/meta/_journal.json'])
    t.ok(tarball.paths.includes(path), `${path} is there`)
})

t.test('has entry points that publint and attw accept', async t => {
  t.match(await run(ROOT, bin('publint'), tarball.file), 'All good!')
  await t.resolves(run(ROOT, bin('attw'), tarball.file, '--profile', 'esm-only'))
})

t.test("runs the README's first program as it stands, and answers as the README says", async t => {
  const readme = await readFile(join(ROOT, 'README.md'), 'utf8')
  const section = /^## [^\n]*Quick start.*?(?=^## )/ims.exec(readme)?.[0] ?? ''
  const [, program = ''] = /^```(?:js|ts)\n(.*?)^```/ms.exec(section) ?? []
  const [, method = 'GET', header = '', value = '', address = ''] =
    /^\$ curl (?:-i )?(?:-X (\w+) )?-H '([^:]+): ([^']+)' (\S+)/m.exec(section) ?? []
  const printed = [...section.matchAll(/^(x-quota-(?:type|limit|used|remaining|cost)): (.+)$/gm)]
  t.ok(program !== '' && printed.length >= 5, 'the README has a program and the reply to it')

  const server = start(t, project, await project.write('quick-start.js', program))
  const ask = () => fetch(`http://${address}`, { method, headers: { [header]: value } })
  const first = await answered(ask, server.exited)
  if (first === undefined) return t.fail(server.output())
  t.equal(first.status, 200, server.output())
  for (const [, name, value] of printed.slice(0, 5)) t.equal(first.headers.get(name as string), value, `${name}`)
  let reply = await ask()
  while (reply.status === 200) reply = await ask()
  t.equal(reply.status, 402)
  t.equal(reply.headers.get('content-type'), 'application/problem+json; charset=utf-8')
})

t.test('exports the tables as a Drizzle schema', async t => {
  const program = `
    import { is, getTableName } from 'drizzle-orm'
    import { PgTable } from 'drizzle-orm/pg-core'
    import * as schema from 'fastify-quota/schema'
    console.log(Object.values(schema).filter(value => is(value, PgTable)).map(getTableName).join(' '))`
  const names = await project.node(await project.write('tables.js', program))
  for (const name of ['quota_types', 'quota_limits', 'quota_users', 'usage_logs']) t.ok(names.includes(name), name)
})

t.test('installs a command fastify-quota that prints its usage', async t => {
  const output = await run(project.dir, join(project.dir, 'node_modules/.bin/fastify-quota'), '--help')
  for (const command of ['init', 'doctor', 'reconcile', 'token']) t.match(output, command)
})

const OPTIONS: ts.CompilerOptions = {
  module: ts.ModuleKind.NodeNext,
  target: ts.ScriptTarget.ES2022,
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  types: ['node'],
  typeRoots: [join(project.dir, 'node_modules/@types')]
}

const textOf = ({ messageText }: ts.Diagnostic) => ts.flattenDiagnosticMessageText(messageText, '\n')

const CONSUMER = `
  import Fastify from 'fastify'
  import quotaPlugin, { type Balance } from 'fastify-quota'

  declare module 'fastify-quota' {
    interface QuotaTypes {
      api_calls: true
      tokens: true
    }
  }

  const app = Fastify()
  await app.register(quotaPlugin, {
    quotas: { api_calls: { limit: 5 } },
    rules: [{ url: '/*', quota: 'api_calls' }],
    identify: request => request.ip
  })
  app.get('/', { config: { quota: ['api_calls', { type: 'tokens', amount: 5 }] } }, async request => {
    request.quota.setAmount('tokens', 3)
    const balance: Balance = await app.quota.consume('alice', 'api_calls')
    return balance.remaining
  })`

t.test('the compiler checks the names of quota types once QuotaTypes declares them', async t => {
  const misspelt = {
    'call.ts': "await app.quota.consume('alice', 'api_cals')",
    'reserve.ts': "await app.quota.reserve('alice', ['api_calls', { type: 'tokns', amount: 1 }])",
    'route.ts': "app.get('/x', { config: { quota: 'api_cals' } }, async () => 1)",
    'route-charge.ts': "app.get('/x', { config: { quota: { type: 'api_cals' } } }, async () => 1)",
    'rule.ts': "await app.register(quotaPlugin, { rules: [{ url: '/x', quota: 'api_cals' }] })",
    'request.ts': "app.get('/x', async request => request.quota.setAmount('tokns', 1))"
  }
  await project.write('consumer.ts', CONSUMER)
  for (const [name, line] of Object.entries(misspelt)) await project.write(name, `${CONSUMER}\n  ${line}`)
  const errorsOf = compiler(['consumer.ts', ...Object.keys(misspelt)])
  t.strictSame(errorsOf('consumer.ts'), [], 'it compiles with the correct names')
  for (const [name, line] of Object.entries(misspelt)) {
    const errors = errorsOf(name)
    t.equal(errors.length, 1, `${line} does not compile`)
    t.match(errors[0], /api_cals|tokns|No overload/)
  }
})

t.test('its type declarations compile for Node and for a bundler, even without skipLibCheck', async t => {
  const file = await project.write('checked.ts', `${CONSUMER}\n  export * from 'fastify-quota/schema'`)
  const kinds = [
    { module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext },
    { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler }
  ]
  for (const kind of kinds) {
    const program = ts.createProgram([file], { ...OPTIONS, ...kind, skipLibCheck: false })
    const ours = program.getSourceFiles().filter(({ fileName }) => fileName.includes('/fastify-quota/dist/'))
    t.ok(ours.length > 10)
    t.strictSame(ours.flatMap(source => program.getSemanticDiagnostics(source)).map(textOf), [])
  }
})

/** Compiles these files of the project together; returns how to get the errors of each. */
function compiler(names: readonly string[]): (name: string) => string[] {
  const program = ts.createProgram(
    names.map(name => join(project.dir, name)),
    OPTIONS
  )
  const everywhere = [...program.getOptionsDiagnostics(), ...program.getGlobalDiagnostics()].map(textOf)
  return name => [
    ...everywhere,
    ...ts.getPreEmitDiagnostics(program, program.getSourceFile(join(project.dir, name))).map(textOf)
  ]
}

/** The first answer of a server that is starting; undefined if the server exits before. */
async function answered(ask: () => Promise<Response>, exited: Promise<void>): Promise<Response | undefined> {
  let isOver = false
  exited.then(() => {
    isOver = true
  })
  while (!isOver) {
    try {
      return await ask()
    } catch {
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }
  return undefined
}
