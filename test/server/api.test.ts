import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { connect as connectSocket } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { buildServer } from '../../src/server/app.ts'
import type { Settings } from '../../src/server/settings.ts'
import { embeddedDir } from '../fixtures/database.ts'

const ADMIN = { 'x-admin-token': 'an-admin-token-of-24-ch.' }
const SETTINGS: Omit<Settings, 'connection'> = {
  host: '127.0.0.1',
  port: 0,
  logLevel: 'silent',
  isAuthEnabled: true,
  isQuotaEnabled: true,
  adminToken: ADMIN['x-admin-token'],
  isAdminTokenKept: false,
  jwtSecret: 'a-jwt-secret-of-at-least-32-characters'
}

async function serve(t: Test, settings: Partial<Settings> = {}): Promise<{ app: FastifyInstance; url: string }> {
  const app = await buildServer({ ...SETTINGS, connection: { dataDir: await embeddedDir(t) }, ...settings })
  t.teardown(() => app.close())
  return { app, url: await app.listen({ host: '127.0.0.1', port: 0 }) }
}

t.test('the API of the replaced system', async t => {
  const { app, url } = await serve(t)
  const bearer = (sub: string) => ({ authorization: `Bearer ${app.jwt.sign({ sub })}` })
  const post = (user: string, path: string, init: RequestInit = {}) =>
    fetch(url + path, { method: 'POST', ...init, headers: { ...bearer(user), ...init.headers } })
  const get = async (user: string, path: string) => {
    const reply = await fetch(url + path, { headers: bearer(user) })
    return { status: reply.status, body: JSON.parse(await reply.text()) }
  }
  const used = async (user: string, type: string) => (await app.quota.check(user, type)).used

  t.test('gives a new user the types and limits of the contract', async t => {
    const { body } = await get('newcomer', '/quotas/me')
    t.match(body.quotas, [
      { type_key: 'api_calls_continue', limit: 200, kind: 'flow', unit: 'call' },
      { type_key: 'api_calls_full_process', limit: 100, kind: 'flow', unit: 'call' },
      { type_key: 'api_calls_l3_detect', limit: 200, kind: 'flow', unit: 'call' },
      { type_key: 'storage_dicom', limit: 10_737_418_240, kind: 'level', unit: 'byte' },
      { type_key: 'storage_results', limit: 5_368_709_120, kind: 'level', unit: 'byte' }
    ])
  })

  t.test('accepts a task with 202, charges the type of that task, and completes it', async t => {
    const accepted: string[] = []
    for (const [path, type, kind] of [
      ['process', 'api_calls_full_process', 'full_process'],
      ['l3_detect', 'api_calls_l3_detect', 'l3_detect'],
      ['continue_after_l3', 'api_calls_continue', 'continue_after_l3']
    ] as const) {
      const reply = await post('tasker', `/${path}/p/2026-01-31`)
      t.equal(reply.status, 202)
      t.equal(reply.headers.get('x-quota-type'), type)
      t.equal(await used('tasker', type), 1)
      const task = (await reply.json()) as { task_id: string }
      t.match(task, { status: 'processing', kind, completed_at: null })
      accepted.push(task.task_id)
    }
    for (const id of accepted) {
      let seen = await get('tasker', `/task_status/${id}`)
      while (seen.body.status !== 'completed') seen = await get('tasker', `/task_status/${id}`)
      t.match(seen.body, { progress: 100, completed_at: /Z$/ })
    }
  })

  t.test('shows users only their own tasks and studies', async t => {
    const task = (await (await post('owner', '/process/p/2026-01-31')).json()) as { task_id: string }
    await post('owner', '/upload_dicom_zip?patient_name=Doe&study_date=2026-01-31', { body: 'scan' })
    t.equal((await get('other', `/task_status/${task.task_id}`)).status, 404)
    t.strictSame((await get('other', '/list_patients')).body, { count: 0, patients: [] })
    t.strictSame((await get('owner', '/list_patients')).body, { count: 1, patients: ['Doe-2026-01-31'] })
  })

  t.test('charges an upload for the bytes received, whatever their content type', async t => {
    const form = new FormData()
    form.set('file', new Blob(['x'.repeat(100)]))
    const bodies: RequestInit[] = [
      { body: Buffer.alloc(3_000_000), headers: { 'content-type': 'application/zip' } },
      { body: Buffer.from('{"not": "parsed"'), headers: { 'content-type': 'application/json' } },
      { body: form }
    ]
    let total = 0
    for (const body of bodies) {
      const reply = await post('uploader', '/upload_dicom_zip', body)
      t.equal(reply.status, 201)
      const { bytes } = (await reply.json()) as { bytes: number }
      t.equal(reply.headers.get('x-quota-cost'), String(bytes))
      total += bytes
    }
    t.equal(await used('uploader', 'storage_dicom'), total)
    t.equal((await post('uploader', '/upload_l3_mask/p/2026-01-31', { body: 'mask' })).status, 201)
    t.equal(await used('uploader', 'storage_results'), 4)
  })

  t.test('refuses an upload without a length with 411 and an empty one with 400, and charges neither', async t => {
    const body = new Blob(['chunked']).stream()
    const chunked = await post('lengthless', '/upload_dicom_zip', { body, duplex: 'half' } as RequestInit)
    t.equal(chunked.status, 411)
    t.match(await chunked.json(), { detail: /Content-Length/ })
    t.equal((await post('lengthless', '/upload_dicom_zip', { body: '' })).status, 400)
    t.equal(await used('lengthless', 'storage_dicom'), 0)
  })

  t.test('refuses an upload with 402 if the storage has no room for it', async t => {
    await app.quota.setUsage('full', 'storage_dicom', 10_737_418_240 - 10)
    const denied = await post('full', '/upload_dicom_zip', { body: 'eleven byte' })
    t.equal(denied.status, 402)
    t.match(await denied.json(), {
      quota_type: 'storage_dicom',
      remaining: 10,
      required: 11,
      'violated-policies': ['storage_dicom']
    })
    t.equal((await post('full', '/upload_dicom_zip', { body: 'ten  bytes' })).status, 201)
  })

  t.test('releases what an aborted upload had reserved', async t => {
    const socket = connectSocket(Number(new URL(url).port), '127.0.0.1')
    const { authorization } = bearer('breaker')
    socket.write(
      `POST /upload_dicom_zip HTTP/1.1\r\nHost: x\r\nAuthorization: ${authorization}\r\nContent-Length: 1000\r\n\r\nhalf`
    )
    await reaches(1000)
    socket.destroy()
    await once(socket, 'close')
    await reaches(0)
    t.equal(await used('breaker', 'storage_dicom'), 0)

    async function reaches(reserved: number): Promise<void> {
      // The embedded engine answers without letting the event loop get to the socket.
      while ((await app.quota.check('breaker', 'storage_dicom')).reserved !== reserved) await setImmediate()
    }
  })

  t.test('answers 401 without a token on every route of the API, but not on /health', async t => {
    for (const [method, path] of [
      ['POST', '/process/p/d'],
      ['POST', '/l3_detect/p/d'],
      ['POST', '/continue_after_l3/p/d'],
      ['POST', '/upload_dicom_zip'],
      ['POST', '/upload_l3_mask/p/d'],
      ['GET', '/list_patients'],
      ['GET', '/task_status/x'],
      ['GET', '/quotas/me']
    ] as const) {
      const reply = await fetch(url + path, { method })
      t.equal(reply.status, 401, path)
      t.equal(reply.headers.get('www-authenticate'), 'Bearer')
      t.equal(reply.headers.get('content-type'), 'application/problem+json; charset=utf-8')
    }
    const health = await fetch(`${url}/health`)
    t.match([health.status, await health.json()], [200, { status: 'healthy', database: 'reachable' }])
  })

  t.test('refuses a token that is unsigned, or signed by another algorithm', async t => {
    const signed = (alg: string, sign: (text: string) => string) => {
      const text = [{ alg, typ: 'JWT' }, { sub: 'alice' }]
        .map(part => Buffer.from(JSON.stringify(part)).toString('base64url'))
        .join('.')
      return `${text}.${sign(text)}`
    }
    const hmac = (hash: string) => (text: string) =>
      createHmac(hash, SETTINGS.jwtSecret as string)
        .update(text)
        .digest('base64url')
    const status = async (token: string) =>
      (await fetch(`${url}/list_patients`, { headers: { authorization: `Bearer ${token}` } })).status
    t.equal(await status(signed('HS256', hmac('sha256'))), 200)
    t.equal(await status(signed('none', () => '')), 401)
    t.equal(await status(signed('HS512', hmac('sha512'))), 401)
  })

  t.test('finds a user whose id has 255 four-byte characters', async t => {
    const id = '😀'.repeat(255)
    await app.quota.consume(id, 'api_calls_l3_detect')
    const reply = await fetch(`${url}/admin/quotas/users/${encodeURIComponent(id)}`, { headers: ADMIN })
    t.equal(reply.status, 200)
    t.equal(((await reply.json()) as { user_id: string }).user_id, id)
  })

  t.test('answers 414 to an id that is too long for any user, and 400 to a malformed URL', async t => {
    const refusalOf = async (id: string) => {
      const reply = await fetch(`${url}/admin/quotas/users/${id}`, { headers: ADMIN })
      t.equal(reply.headers.get('cache-control'), 'no-store')
      return { status: reply.status, ...((await reply.json()) as object) }
    }
    t.match(await refusalOf('a'.repeat(3061)), {
      status: 414,
      detail: 'path has a part of more than 3060 characters; shorten it.',
      code: 'FST_ERR_MAX_PARAM_LENGTH',
      field: 'path'
    })
    t.match(await refusalOf('%zz'), {
      status: 400,
      detail: 'path has invalid percent-encoding; write a percent sign itself as %25.',
      code: 'FST_ERR_BAD_URL',
      field: 'path'
    })
  })

  t.test('answers what is no HTTP request with problem details, and ends the connection', async t => {
    const answerTo = async (request: string) => {
      const socket = connectSocket(Number(new URL(url).port), '127.0.0.1').setEncoding('utf8')
      socket.write(request)
      const answer = (await socket.toArray()).join('')
      const [head = '', body = ''] = answer.split('\r\n\r\n')
      t.match(head, /^content-type: application\/problem\+json; charset=utf-8$/im)
      t.match(head, new RegExp(`^content-length: ${body.length}$`, 'im'))
      t.match(head, /^connection: close$/im)
      return { line: head.split('\r\n')[0], ...JSON.parse(body) }
    }
    t.strictSame(await answerTo('FOO / HTTP/1.1\r\nHost: x\r\n\r\n'), {
      line: 'HTTP/1.1 400 Bad Request',
      type: 'about:blank',
      title: 'Bad Request',
      status: 400,
      detail: 'The request is not valid HTTP. Parse Error: Invalid method encountered.',
      code: 'HPE_INVALID_METHOD'
    })
    t.match(await answerTo(`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ${'9'.repeat(20)}\r\n\r\n`), {
      status: 400,
      code: 'HPE_INVALID_CONTENT_LENGTH'
    })
    t.match(await answerTo(`GET / HTTP/1.1\r\nHost: x\r\nX-Long: ${'x'.repeat(17_000)}\r\n\r\n`), {
      line: 'HTTP/1.1 431 Request Header Fields Too Large',
      detail: 'The headers are too long; shorten them.',
      code: 'HPE_HEADER_OVERFLOW'
    })
  })

  t.test('answers 408 to a request that does not arrive in time', async t => {
    const client = connectSocket(Number(new URL(url).port), '127.0.0.1').setEncoding('utf8')
    const [socket] = await once(app.server, 'connection')
    // As Node does after five minutes.
    app.server.emit('clientError', Object.assign(new Error('late'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' }), socket)
    const answer = (await client.toArray()).join('')
    t.match(answer, /^HTTP\/1\.1 408 Request Timeout\r\n/)
    t.match(answer, /"detail":"The request did not arrive in time; send it again\."/)
    t.ok(socket.destroyed)
  })

  t.test('answers an unknown path with 404, without repeating the path', async t => {
    const reply = await fetch(`${url}/proces/Erika.Mustermann/2026-01-31`)
    t.equal(reply.status, 404)
    t.notMatch(await reply.text(), /Mustermann/)
  })

  t.test('describes its routes and their authentication in OpenAPI 3', async t => {
    const document = JSON.parse(await (await fetch(`${url}/docs/json`)).text())
    t.match(document.openapi, /^3\./)
    t.match(document.components.securitySchemes, {
      bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' },
      admin: { type: 'apiKey', in: 'header', name: 'X-Admin-Token' }
    })
    t.match(document.paths['/l3_detect/{patient}/{date}'].post, {
      security: [{ bearer: [] }],
      responses: { 202: {}, 400: {}, 401: {}, 402: {}, 503: {} }
    })
    t.strictSame(document.paths['/admin/quotas/users/{userId}'].get.security, [{ admin: [] }])
    t.strictSame(document.paths['/health'].get.security, [])
    t.equal((await fetch(`${url}/docs/`)).status, 200)
  })
})

t.test('with ENABLE_AUTH=false charges the user named in X-User-Id', async t => {
  const { app, url } = await serve(t, { isAuthEnabled: false, jwtSecret: undefined })
  const headers = { 'x-user-id': 'local' }
  t.equal((await fetch(`${url}/process/p/d`, { method: 'POST', headers })).status, 202)
  t.equal((await app.quota.check('local', 'api_calls_full_process')).used, 1)
  // As curl sends it, and as a client that knows only Latin-1 does. `fetch` sends each character of a header as one byte.
  for (const encoding of ['utf8', 'latin1'] as const) {
    const named = { 'x-user-id': Buffer.from('Zoë', encoding).toString('latin1') }
    t.equal((await fetch(`${url}/process/p/d`, { method: 'POST', headers: named })).status, 202)
  }
  t.equal((await app.quota.check('Zoë', 'api_calls_full_process')).used, 2, 'in UTF-8 and in Latin-1')
  const without = await fetch(`${url}/process/p/d`, { method: 'POST' })
  t.equal(without.status, 401)
  t.equal(without.headers.get('www-authenticate'), null)
  const unmetered = await fetch(`${url}/list_patients`)
  t.strictSame([unmetered.status, unmetered.headers.get('www-authenticate')], [401, null])
})

t.test('with ENABLE_QUOTA=false meters nothing, has no quota routes, and needs no database', async t => {
  const { app, url } = await serve(t, {
    isQuotaEnabled: false,
    adminToken: undefined,
    connection: 'postgres://127.0.0.1:1/none'
  })
  const headers = { authorization: `Bearer ${app.jwt.sign({ sub: 'alice' })}` }
  const accepted = await fetch(`${url}/process/p/d`, { method: 'POST', headers })
  t.equal(accepted.status, 202)
  t.equal(accepted.headers.get('x-quota-type'), null)
  t.equal((await fetch(`${url}/upload_dicom_zip`, { method: 'POST', headers, body: 'scan' })).status, 201)
  t.equal((await fetch(`${url}/process/p/d`, { method: 'POST' })).status, 401)
  for (const path of ['/quotas/me', '/admin/quotas/users/alice'])
    t.equal((await fetch(url + path, { headers: { ...headers, ...ADMIN } })).status, 404, path)
  t.match(await (await fetch(`${url}/health`)).json(), { status: 'healthy', database: 'unused' })

  t.test('and its OpenAPI document does not mention quotas', async t => {
    const { info, paths, components } = (await (await fetch(`${url}/docs/json`)).json()) as {
      info: { description: string }
      paths: Record<string, Record<string, { responses: Record<string, unknown> }>>
      components: { securitySchemes: object }
    }
    t.strictSame(Object.keys(components.securitySchemes), ['bearer'])
    const { '/health': health, ...others } = paths
    t.ok(health)
    for (const [path, operations] of Object.entries(others)) {
      for (const { responses } of Object.values(operations)) t.notOk(responses[402] ?? responses[503], path)
      const text = JSON.stringify(operations).replaceAll('FST_QUOTA_…', '')
      t.notMatch(text, /quota|\bcharge|admin/i, path)
    }
    t.match(info.description, /Nothing is metered/)
  })
})
