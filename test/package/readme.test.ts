import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))
const readme = await readFile(join(root, 'README.md'), 'utf8')
const blocks = (language: string) =>
  [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(match => match[1] as string)

t.test('names the commands to start and to test within its first thirty lines', async t => {
  const top = readme.split('\n').slice(0, 30).join('\n')
  t.match(top, /^npm ci && npm start$/m)
  t.match(top, /^npm ci && npm test$/m)
})

t.test('shows TypeScript that compiles as it stands', async t => {
  const dir = join(root, '.tap', `readme-${process.pid}`)
  await mkdir(dir, { recursive: true })
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  const snippets = blocks('ts')
  t.ok(snippets.length >= 4)
  const files = snippets.map((_, i) => `snippet-${i}.ts`)
  await Promise.all(snippets.map((text, i) => writeFile(join(dir, files[i] as string), `${text}\nexport {}\n`)))
  // Snippets that declare quota names are compiled apart from the others, which use names of their own.
  const declaring = files.filter((_, i) => snippets[i]?.includes('declare module'))
  for (const include of [files.filter(file => !declaring.includes(file)), declaring]) {
    const compilerOptions = {
      noEmit: true,
      rootDir: root,
      noUnusedLocals: false,
      paths: { 'fastify-quota': [join(root, 'src/index.ts')] }
    }
    await writeFile(
      join(dir, 'tsconfig.json'),
      JSON.stringify({ extends: join(root, 'tsconfig.json'), compilerOptions, include })
    )
    const tsc = [join(root, 'node_modules/typescript/bin/tsc'), '-p', dir]
    const { stdout } = await promisify(execFile)(process.execPath, tsc).catch(error => error)
    t.equal(stdout, '')
  }
})

t.test('links to files that exist', async t => {
  for (const [, target] of readme.matchAll(/\]\((?!https?:)([^)#]+)/g))
    t.ok(existsSync(join(root, target as string)), String(target))
})

t.test('states the speed ratios that the bench measured', async t => {
  const measured = await readFile(join(root, 'bench/README.md'), 'utf8')
  const rounded = (load: string) => {
    const [, ratio] = new RegExp(`^\\| ${load} \\|.*\\| ([\\d.]+) \\| [^|]*\\|$`, 'm').exec(measured) ?? []
    return Number(ratio).toFixed(1)
  }
  const all = readme.replace(/\s+/g, ' ')
  t.match(
    all,
    `serves ${rounded('50 connections, 1 000 users: × flexible-postgres')} times as many as \`rate-limiter-flexible\``
  )
  t.match(all, `(${rounded('50 connections, one hot user: × flexible-postgres')} times as many of one hot user)`)
  t.match(
    all,
    `and ${rounded('50 connections, 1 000 users: × drizzle-check-update-insert')} times as many as check, update, insert`
  )
})
