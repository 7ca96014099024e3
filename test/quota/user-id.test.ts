import t from 'tap'
import { isUserId } from '../../src/quota/user-id.ts'

t.test('accepts a string of 1 to 255 characters, counted as PostgreSQL counts them', async t => {
  const taken = [
    'a',
    'alice',
    'auth0|5f7c',
    'urn:user:1',
    'Zoë 山田',
    ' ',
    '%_\'";--',
    'a'.repeat(255),
    '😀'.repeat(255)
  ]
  for (const id of taken) t.equal(isUserId(id), true, id.slice(0, 20))
  for (const id of ['', 'a'.repeat(256), '😀'.repeat(256), `${'😀'.repeat(255)}a`, 'a'.repeat(100_000)]) {
    t.equal(isUserId(id), false, `${[...id].length} characters`)
  }
})

t.test('refuses control characters in any position', async t => {
  for (const code of [0x00, 0x01, 0x09, 0x0a, 0x0d, 0x1f, 0x7f, 0x80, 0x85, 0x9f]) {
    const control = String.fromCharCode(code)
    for (const id of [control, `${control}alice`, `al${control}ice`, `alice${control}`]) {
      t.equal(isUserId(id), false, JSON.stringify(id))
    }
  }
  for (const id of ['a~', 'a\u00a0']) t.equal(isUserId(id), true, 'the neighbours of the control characters')
})

t.test('refuses a lone surrogate, which PostgreSQL could not store', async t => {
  for (const id of ['\ud83d', 'a\ud83d', '\ude00a', '\ude00\ud83d']) t.equal(isUserId(id), false, JSON.stringify(id))
})

t.test('refuses anything but a string', async t => {
  for (const id of [undefined, null, 5, 5n, true, {}, ['alice'], Symbol('alice'), new String('alice')]) {
    t.equal(isUserId(id), false, typeof id)
  }
})
