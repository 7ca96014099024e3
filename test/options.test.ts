import { readFileSync } from 'node:fs'
import { getTableColumns } from 'drizzle-orm'
import t from 'tap'
import { DEFAULT_ADMIN_PREFIX } from '../src/admin/authorize.ts'
import { readOptions } from '../src/options.ts'
import { DEFAULT_DENIAL } from '../src/quota/denial.ts'
import { TYPE_DEFAULTS } from '../src/quota/quota-type.ts'
import { readSettings } from '../src/server/settings.ts'
import { DEFAULT_DIRECTORY } from '../src/store/connection/default-directory.ts'
import { quotaTypes } from '../src/store/schema.ts'

const textOf = (file: string) => readFileSync(new URL(`../${file}`, import.meta.url), 'utf8')
const defaults = readOptions({})
/** With spaces between thousands: 60 000. */
const spaced = (n: number) => String(n).replace(/(?<=\d)(?=(\d{3})+$)/g, ' ')

t.test("the README's table of options states the defaults of the code", async t => {
  const readme = textOf('README.md')
  const { statusCode, upgradeUrl } = DEFAULT_DENIAL
  for (const [option, shown] of Object.entries({
    connection: `\`DATABASE_URL\`, else \`{ dataDir: '${DEFAULT_DIRECTORY}' }\``,
    admin: `no admin routes; prefix \`${DEFAULT_ADMIN_PREFIX}\``,
    self: `\`${defaults.selfUrl}\``,
    denial: `${statusCode}, \`${upgradeUrl}\``,
    storeFailure: `\`'${defaults.storeFailure}'\``,
    settle: `\`'${defaults.settle}'\``,
    storeTimeoutMs: spaced(defaults.storeTimeoutMs),
    reservationTtlMs: spaced(defaults.reservationTtlMs),
    distributed: `\`${defaults.distributed}\``
  }))
    t.equal(new RegExp(`^\\| \`${option}\` \\| .* \\| (.*) \\|$`, 'm').exec(readme)?.[1], shown, option)
})

t.test('the doc comments of the options state the defaults of the code', async t => {
  const source = textOf('src/options.ts')
  const comment = (option: string) =>
    new RegExp(`/\\*\\*((?:(?!\\*/).)*)\\*/\\s+${option}\\?:`, 's').exec(source)?.[1] ?? ''
  t.match(comment('connection'), `else embedded in \`${DEFAULT_DIRECTORY}\``)
  t.match(comment('self'), `Default: \`{ url: '${defaults.selfUrl}' }\``)
  t.match(comment('denial'), `Default: ${DEFAULT_DENIAL.statusCode} and \`${DEFAULT_DENIAL.upgradeUrl}\``)
  t.match(comment('storeFailure'), `\`${defaults.storeFailure}\` (default)`)
  t.match(comment('settle'), `\`${defaults.settle}\` (default)`)
  t.match(comment('storeTimeoutMs'), `Default: ${spaced(defaults.storeTimeoutMs)}.`)
  t.match(comment('reservationTtlMs'), `Default: ${spaced(defaults.reservationTtlMs)}.`)
  t.match(comment('distributed'), `Default: \`${defaults.distributed}\``)
})

t.test('a quota type inserted by SQL has the same default unit, kind and period as a declared one', async t => {
  const columns = getTableColumns(quotaTypes)
  t.match(columns, {
    unit: { default: TYPE_DEFAULTS.unit },
    kind: { default: TYPE_DEFAULTS.kind },
    period: { default: TYPE_DEFAULTS.period }
  })
})

t.test('by default, the standalone server keeps its data in the same directory as the plugin', async t => {
  const secrets = { ADMIN_TOKEN: 'x'.repeat(16), JWT_SECRET: 'x'.repeat(32) }
  t.strictSame(readSettings(secrets).connection, { dataDir: DEFAULT_DIRECTORY })
})

t.test('accepts the bounds of each option that is a number, and a secret of 32 characters', async t => {
  for (const options of [
    { storeTimeoutMs: 50, reservationTtlMs: 100 },
    { storeTimeoutMs: 60_000, reservationTtlMs: 2 ** 31 - 1 }
  ])
    t.match(readOptions(options), options)
  t.match(readOptions({ jwt: { secret: 'x'.repeat(32) } }).jwt, { secret: 'x'.repeat(32) })
})
