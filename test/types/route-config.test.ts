// Checked by `npx tsc`: a @ts-expect-error above a line that compiles is an error.
import Fastify from 'fastify'
import t from 'tap'
import '../../src/index.ts'

const app = Fastify()
const handler = async () => ({})

app.get('/one', { config: { quota: 'calls' } }, handler)
app.get('/none', { config: { quota: false } }, handler)
app.get('/typed', { config: { quota: { type: 'calls', amount: 5 } } }, handler)
app.get('/several', { config: { quota: ['calls', { type: 'tokens', amount: async () => 5 }] } }, handler)
app.get('/computed', { config: { quota: { type: 'calls', amount: request => request.ip.length } } }, handler)
app.get('/options', { config: { quota: { quota: ['calls'], storeFailure: 'open', charge: s => s < 500 } } }, handler)
app.get('/denial', { config: { quota: { type: 'calls', denial: { statusCode: 429, upgradeUrl: null } } } }, handler)
// @ts-expect-error true names no quota type
app.get('/true', { config: { quota: true } }, handler)
// @ts-expect-error an amount is a number
app.get('/text', { config: { quota: { type: 'calls', amount: '5' } } }, handler)
// @ts-expect-error an amount is a number, also when it is computed
app.get('/computed-text', { config: { quota: { type: 'calls', amount: () => '5' } } }, handler)
// @ts-expect-error a type is named by its key
app.get('/keyless', { config: { quota: { amount: 5 } } }, handler)

t.test('a route with several charges in config.quota can be declared', async t => {
  t.equal(app.hasRoute({ method: 'GET', url: '/several' }), true)
})
