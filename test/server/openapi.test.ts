import buildValidatorFactory from '@fastify/ajv-compiler'
import { Validator } from '@seriousme/openapi-schema-validator'
import type { InjectOptions, LightMyRequestResponse } from 'fastify'
import t, { type Test } from 'tap'
import { DEFAULT_ADMIN_PREFIX as ADMIN_PREFIX } from '../../src/admin/authorize.ts'
import { buildServer } from '../../src/server/app.ts'
import { embeddedDir } from '../fixtures/database.ts'

const ADMIN_TOKEN = 'an-admin-token-of-24-ch.'
const app = await buildServer({
  host: '127.0.0.1',
  port: 0,
  logLevel: 'silent',
  isAuthEnabled: true,
  isQuotaEnabled: true,
  connection: { dataDir: await embeddedDir(t) },
  adminToken: ADMIN_TOKEN,
  isAdminTokenKept: false,
  jwtSecret: 'a-jwt-secret-of-at-least-32-characters'
})
t.teardown(() => app.close())

interface Schema {
  type?: string | string[]
  properties?: Record<string, Schema>
  required?: string[]
  additionalProperties?: boolean
  items?: Schema
  examples?: unknown[]
  enum?: unknown[]
  default?: unknown
}
interface Parameter {
  in: 'path' | 'query'
  name: string
  required: boolean
  description?: string
  schema: Schema
  example?: unknown
}
interface Content {
  content?: Record<string, { schema: Schema }>
  description: string
}
interface Operation {
  summary?: string
  operationId?: string
  description?: string
  tags?: string[]
  security: Record<string, []>[]
  parameters?: Parameter[]
  requestBody?: Content & { required: boolean }
  responses: Record<string, Content>
}

const document = app.swagger() as unknown as { openapi: string; paths: Record<string, Record<string, Operation>> }
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation }))
)
const admin = operations.filter(({ path }) => path.startsWith(ADMIN_PREFIX))
type Route = (typeof operations)[number]

const compile = buildValidatorFactory()({}, { customOptions: { coerceTypes: false, useDefaults: false } })

/** The paths of all properties in an answer that its schema does not name. */
function unnamed(schema: Schema, value: unknown, path = ''): string[] {
  if (Array.isArray(value)) return value.flatMap((item, i) => unnamed(schema.items ?? {}, item, `${path}[${i}]`))
  if (typeof value !== 'object' || value === null || schema.additionalProperties === true) return []
  return Object.entries(value).flatMap(([name, inner]) => {
    const named = schema.properties?.[name]
    return named === undefined ? [`${path}.${name}`] : unnamed(named, inner, `${path}.${name}`)
  })
}

function isDocumented(t: Test, route: Route, reply: LightMyRequestResponse, title: string): void {
  const answer = route.operation.responses[reply.statusCode]
  t.ok(answer, `${title}: ${reply.statusCode} is documented`)
  const [type] = (reply.headers['content-type'] ?? '').toString().split(';') as [string]
  const schema = answer?.content?.[type]?.schema
  if (reply.statusCode === 204) return void t.strictSame([reply.body, answer?.content], ['', undefined])
  t.ok(schema, `${title}: its ${type} has a schema`)
  if (schema === undefined || !type.endsWith('json') || type.includes('ndjson')) return
  const validate = compile({ schema, method: 'GET', url: '/', httpPart: 'body' } as never) as ((
    value: unknown
  ) => boolean) & { errors: unknown }
  t.ok(validate(reply.json()), `${title}: ${JSON.stringify(validate.errors)}`)
  t.strictSame(unnamed(schema, reply.json()), [], `${title}: every property is named`)
}

const exampleOf = ({ example, schema }: Parameter): unknown => example ?? schema.default ?? schema.enum?.[0]

/** The request that the document suggests: every parameter and property that has an example, a default or an enum. */
function requestOf({ path, method, operation }: Route): InjectOptions {
  const given = (place: string) =>
    (operation.parameters ?? []).filter(p => p.in === place && exampleOf(p) !== undefined && p.name !== 'offset')
  const url = given('path').reduce(
    (url, p) => url.replace(`{${p.name}}`, encodeURIComponent(String(exampleOf(p)))),
    path
  )
  const query = new URLSearchParams(
    given('query').map((p): [string, string] => [p.name, String(exampleOf(p))])
  ).toString()
  const [type, media] = Object.entries(operation.requestBody?.content ?? {})[0] ?? []
  const payload = type === undefined || media === undefined ? undefined : bodyOf(type, media.schema)
  return {
    method: method as 'GET',
    url: query === '' ? url : `${url}?${query}`,
    headers: { ...credentials(operation), ...(type === undefined ? {} : { 'content-type': type }) },
    ...(payload === undefined ? {} : { payload })
  }
}

function bodyOf(type: string, { properties = {} }: Schema): string {
  if (type !== 'application/json') return 'the bytes of a file'
  const named = Object.entries(properties).map(([name, schema]) => [name, schema.examples?.[0] ?? schema.default])
  return JSON.stringify(Object.fromEntries(named.filter(([, value]) => value !== undefined)))
}

function credentials({ security }: Operation): Record<string, string> {
  const schemes = security.flatMap(scheme => Object.keys(scheme))
  if (schemes.includes('admin')) return { 'x-admin-token': ADMIN_TOKEN }
  return schemes.includes('bearer') ? { authorization: `Bearer ${app.jwt.sign({ sub: 'alice' })}` } : {}
}

t.test('is a valid OpenAPI 3.1 document, and is served at /docs/json', async t => {
  t.match(document.openapi, /^3\.1\./)
  t.match(await new Validator().validate(JSON.parse(JSON.stringify(document))), { valid: true })
  const reply = await app.inject('/docs/json')
  t.strictSame(reply.json(), JSON.parse(JSON.stringify(document)))
})

t.test('has every admin route, and describes its parameters and responses', async t => {
  t.strictSame(
    admin.map(({ method, path }) => `${method} ${path.replace(ADMIN_PREFIX, '')}`).sort(),
    [
      'DELETE /users/{userId}',
      'GET /audit-logs',
      'GET /health',
      'GET /quota-types',
      'GET /statistics/{quotaType}',
      'GET /usage-logs',
      'GET /users',
      'GET /users/{userId}',
      'PATCH /users/{userId}',
      'POST /users/{userId}/reset',
      'PUT /quota-types/{key}',
      'PUT /users/{userId}/adjust'
    ].sort()
  )
  for (const { method, path, operation } of admin) {
    const name = `${method} ${path}`
    t.ok(operation.summary && operation.operationId, name)
    t.strictSame(operation.tags, ['quota-admin'], name)
    t.ok(
      operation.security.some(scheme => 'admin' in scheme),
      name
    )
    for (const parameter of operation.parameters ?? []) t.ok(parameter.description, `${name} ${parameter.name}`)
    for (const [status, answer] of Object.entries(operation.responses))
      t.not(answer.description, 'Default Response', `${name} ${status}`)
    for (const status of [400, 403, 429, 500, 503]) t.ok(operation.responses[status], `${name} documents ${status}`)
  }
  const ids = operations.map(({ operation }) => operation.operationId).filter(id => id !== undefined)
  t.equal(new Set(ids).size, ids.length, 'no two operations share an id')
})

t.test('accepts the example request of every route, and answers as documented', async t => {
  // DELETE comes last: the other requests need the same user.
  const ordered = [...operations].sort((a, b) => Number(a.method === 'DELETE') - Number(b.method === 'DELETE'))
  await app.quota.consume('alice', 'api_calls_l3_detect', 1, { endpoint: '/l3_detect/:patient/:date' })
  for (const route of ordered) {
    const reply = await app.inject(requestOf(route))
    const title = `${route.method} ${route.path}`
    const expected = route.path === '/task_status/{id}' ? /404/ : /^2/
    t.match(String(reply.statusCode), expected, `${title}: ${reply.statusCode < 300 ? 'ok' : reply.body}`)
    isDocumented(t, route, reply, title)
  }
})

t.test('refuses invalid requests to every admin route as documented', async t => {
  for (const route of admin) {
    const { path, method } = route
    const request = requestOf(route)
    const url = request.url as string
    const send = async (title: string, changed: InjectOptions) => {
      const reply = await app.inject({ ...request, ...changed } as InjectOptions)
      if (path !== `${ADMIN_PREFIX}/health` || title !== 'no token')
        t.ok(reply.statusCode >= 400, `${method} ${path}, ${title}: ${reply.statusCode}`)
      isDocumented(t, route, reply, `${method} ${path}, ${title}`)
    }
    await send('no token', { headers: {} })
    await send('a wrong token', { headers: { 'x-admin-token': 'a token that is not right' } })
    await send('an unknown parameter', { url: `${url}${url.includes('?') ? '&' : '?'}nonsense=1` })
    if (path.includes('{userId}')) {
      await send('an unknown user', { url: url.replace('/alice', '/nobody') })
      await send('an invalid user id', { url: url.replace('/alice', '/%00') })
    }
    if (path.includes('{quotaType}')) await send('an unknown type', { url: url.replace('l3_detect', 'nothing') })
    if (method === 'GET') continue
    const json = { ...request.headers, 'content-type': 'application/json' }
    await send('broken JSON', { headers: json, payload: '{' })
    await send('an array', { headers: json, payload: '[]' })
    await send('an unknown field', { headers: json, payload: '{"nonsense":1}' })
    await send('another media type', { headers: { ...json, 'content-type': 'application/xml' }, payload: '<a/>' })
    await send('too large a body', { headers: json, payload: JSON.stringify({ reason: 'x'.repeat(2 ** 21) }) })
  }
})

t.test('refuses a body that a task cannot take, as documented, and charges nothing', async t => {
  const tasks = operations.filter(
    ({ method, path }) => method === 'POST' && path.includes('{patient}') && !path.includes('upload')
  )
  t.equal(tasks.length, 3)
  const used = async () => (await app.quota.all('alice')).map(quota => quota.used)
  const before = await used()
  for (const route of tasks) {
    const request = requestOf(route)
    const send = async (status: number, type: string, payload: string) => {
      const headers = { ...request.headers, 'content-type': type }
      const reply = await app.inject({ ...request, headers, payload } as InjectOptions)
      t.equal(reply.statusCode, status, `${route.path}, ${type}`)
      isDocumented(t, route, reply, `${route.path}, ${type}`)
    }
    await send(400, 'application/json', '{')
    await send(413, 'text/plain', 'x'.repeat(2 ** 21))
    await send(415, 'application/xml', '<a/>')
  }
  t.strictSame(await used(), before)
})

t.test('documents 414 for every route with a path parameter, and for no other', async t => {
  const routes = operations.filter(({ path }) => path.includes('{'))
  t.equal(routes.length, 12)
  for (const route of routes) {
    const url = route.path.replace(/\{\w+\}/, 'a'.repeat(3061)).replaceAll(/\{\w+\}/g, 'x')
    const reply = await app.inject({ method: route.method as 'GET', url })
    t.equal(reply.statusCode, 414, route.path)
    isDocumented(t, route, reply, `${route.method} ${route.path}`)
  }
  for (const { path, operation } of operations.filter(({ path }) => !path.includes('{')))
    t.notOk(operation.responses[414], path)
})

t.test('is shown as a page at /docs/', async t => {
  const page = await app.inject('/docs/')
  t.equal(page.statusCode, 200)
  t.match(page.headers['content-type'], /^text\/html/)
  const policy = String(page.headers['content-security-policy'])
  t.match(policy, "default-src 'self'")
  t.notMatch(policy, 'upgrade-insecure-requests', 'so that the page also works over HTTP from another host')
})
