import { chmodSync, chownSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { makePrivateDirectory } from '../../../src/store/connection/make-private-directory.ts'

const modeOf = (dir: string) => statSync(dir).mode & 0o7777

t.test('creates a directory with mode 0700 even under umask 0, and its parents with the default mode', t => {
  const base = t.testdir()
  const former = process.umask(0)
  t.teardown(() => process.umask(former))
  makePrivateDirectory(join(base, 'above', 'made'))
  t.equal(modeOf(join(base, 'above', 'made')), 0o700)
  t.equal(modeOf(join(base, 'above')), 0o777)
  t.end()
})

t.test('an existing directory loses the rights of group and others, unless it is sticky like /tmp', t => {
  for (const [before, after] of [
    [0o777, 0o700],
    [0o755, 0o700],
    [0o2750, 0o2700],
    [0o500, 0o500],
    [0o1777, 0o1777]
  ] as const) {
    const dir = join(t.testdir(), before.toString(8))
    mkdirSync(dir)
    chmodSync(dir, before)
    makePrivateDirectory(dir)
    t.equal(modeOf(dir), after, before.toString(8))
  }
  t.end()
})

t.test('a directory of another owner is left as it is', { skip: process.getuid?.() !== 0 && 'needs root' }, t => {
  const dir = t.testdir()
  chownSync(dir, 12345, 12345)
  chmodSync(dir, 0o770)
  makePrivateDirectory(dir)
  t.equal(modeOf(dir), 0o770)
  t.end()
})
