import { access, readdir, readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import t from 'tap'

const root = resolve(import.meta.dirname, '../..')
const text = await readFile(join(root, 'docs/reliability.md'), 'utf8')
const named = [...text.matchAll(/npx tap (?:--timeout \d+ )?(test\/[^`\s]+)/g)].map(([, path]) => path as string)

t.test('every promise and every fault names the tests that demonstrate it', async t => {
  const rows = text.split('\n').filter(line => line.startsWith('| ') && !/^\| (---|promise|fault)/.test(line))
  t.ok(rows.length > 20)
  t.strictSame(
    rows.filter(row => !/`npx tap [^`]+` \|$/.test(row)),
    []
  )
  for (const path of new Set(named)) await t.resolves(access(join(root, path)), path)
})

t.test('every test in test/fault is named', async t => {
  const files = (await readdir(join(root, 'test/fault'))).map(file => `test/fault/${file}`)
  t.strictSame(
    files.filter(file => !named.includes(file)),
    []
  )
})

t.test('the settings it names are read by the tests', async t => {
  for (const name of ['FAULT_ROUNDS', 'MODEL_RUNS', 'MEMORY_REQUESTS']) {
    const sources = await Promise.all(
      ['test/fixtures/fault.ts', 'test/model/fixtures/lives.ts', 'test/fault/memory.test.ts'].map(file =>
        readFile(join(root, file), 'utf8')
      )
    )
    t.ok(text.includes(name) && sources.some(source => source.includes(`process.env.${name}`)), name)
  }
})
