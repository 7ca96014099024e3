import { once } from 'node:events'
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import { connect, createServer, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { type Built, bash, built, npmStart, type Running } from '../fixtures/built.ts'
import { server } from '../fixtures/database.ts'

const ADMIN_TOKEN = 'an-admin-token-of-24-ch.'
const SECRETS = { ADMIN_TOKEN, JWT_SECRET: 'a-jwt-secret-of-at-least-32-characters' }

t.test('the standalone server', async t => {
  const build = await built(t)

  t.test('over the embedded database', async t => {
    const data = { QUOTA_DATA_DIR: 'data' }
    const first = await start(build, data)

    t.test('prints commands that work unchanged, one after the other', async t => {
      const lines = greetingOf(first.server.stdout())
        .split('\n')
        .filter(line => /^(curl|for) /.test(line))
      t.equal(lines.length, 8)
      // Each in a shell of its own, so that none depends on another.
      const [call, mine, lower, loop, refusal, raise, reset, log] = await inTurn(lines)
      t.match(call, /^HTTP\/1.1 202 [\s\S]*x-quota-remaining: 199\r\n/)
      t.match(JSON.parse(mine!), { user_id: 'alice', total_quotas: 5 })
      t.match(JSON.parse(lower!), { new_limit: 5, current_usage: 1, remaining: 4 })
      t.strictSame(loop!.trim().split('\n'), ['202', '202', '202', '202', '402'])
      t.match(
        refusal,
        /^HTTP\/1.1 402 [\s\S]*retry-after: [0-9]+\r\n[\s\S]*"violated-policies":\["api_calls_l3_detect"\]/
      )
      t.match(JSON.parse(raise!), { new_limit: 200, remaining: 195 })
      t.match(JSON.parse(reset!), { quotas_reset: 1 })
      t.match(JSON.parse(log!), {
        usage_logs: [{ user_id: 'alice', amount: 1, endpoint: '/l3_detect/:patient/:date' }]
      })
    })

    t.test('refuses a second process with a one-line error, and keeps running', async t => {
      const second = await build.run('server/main.js', [], { PORT: '0', ...data })
      t.match(second, {
        code: 1,
        stdout: '',
        stderr: oneLine(/is open in process [0-9]+, and only one process can use it/)
      })
      t.equal((await first.call('POST', '/process/p/2026-01-31')).status, 202)
    })

    t.test('on SIGTERM finishes the running request, writes its charge, and exits with 0', async t => {
      const upload = first.upload('/upload_dicom_zip?patient_name=Erika.Mustermann', 2000)
      upload.write(Buffer.alloc(1000))
      await first.server.until('/upload_dicom_zip')
      first.server.child.kill('SIGTERM')
      await first.server.until('"closing"')
      upload.end(Buffer.alloc(1000))
      const [reply] = (await once(upload, 'response')) as [IncomingMessage]
      t.equal(reply.statusCode, 201)
      t.match(JSON.parse(await text(reply)), { bytes: 2000 })
      const { code, stdout, stderr } = await first.server.ended
      t.equal(code, 0)
      t.equal(stderr, '')
      t.notMatch(stdout, /Mustermann/, 'no patient is named in the log')
      t.match(await build.run('cli/main.js', ['reconcile', '--data-dir', 'data', '--json']), {
        code: 0,
        stdout: '[]\n'
      })
    })

    t.test('keeps usage and secrets across a restart, and prints the same admin token', async t => {
      const second = await start(build, data)
      t.equal(second.adminToken, first.adminToken)
      // The token from before the restart still works: the secret is the same.
      const { quotas } = JSON.parse((await second.call('GET', '/quotas/me', first.token)).body)
      t.match(quotas, [
        { type_key: 'api_calls_continue', used: 0 },
        { type_key: 'api_calls_full_process', used: 1 },
        { type_key: 'api_calls_l3_detect', used: 0 },
        { type_key: 'storage_dicom', used: 2000, reserved: 0 },
        { type_key: 'storage_results', used: 0 }
      ])
      await stop(t, second.server)
    })

    t.test('on SIGTERM finishes an active upload, and disconnects clients that send nothing more', async t => {
      const running = await start(build, data)
      const half = connect(Number(new URL(running.url).port), '127.0.0.1')
      await once(half, 'connect')
      half.write('POST /upload_dicom_zip HTTP/1.1\r\nHost: ')
      const going = running.upload('/upload_dicom_zip', 1000)
      let missing = 1000
      const drip = setInterval(() => {
        going.write(Buffer.alloc(1))
        missing -= 1
      }, 500)
      await running.server.until('/upload_dicom_zip')
      const silent = running.upload('/upload_l3_mask/p/2026-01-31', 500)
      silent.write(Buffer.alloc(100))
      await running.server.until('/upload_l3_mask')
      running.server.child.kill('SIGTERM')
      await Promise.all([closed(silent), closed(half)])
      clearInterval(drip)
      going.end(Buffer.alloc(missing))
      const [reply] = (await once(going, 'response')) as [IncomingMessage]
      t.match([reply.statusCode, JSON.parse(await text(reply))], [201, { bytes: 1000 }])
      t.equal((await running.server.ended).code, 0)
      t.match(await build.run('cli/main.js', ['reconcile', '--data-dir', 'data', '--json']), {
        code: 0,
        stdout: '[]\n'
      })
    })
  })

  t.test('refuses an invalid variable and a port in use, with a one-line error', async t => {
    const wrong = await build.run('server/main.js', [], { ...SECRETS, PORT: 'http' })
    t.match(wrong, { code: 1, stdout: '', stderr: oneLine(/PORT must be a whole number/) })
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    t.teardown(() => taken.close())
    const { port } = taken.address() as { port: number }
    const environment = { ...SECRETS, PORT: String(port), ENABLE_QUOTA: 'false' }
    t.match(await build.run('server/main.js', [], environment), {
      code: 1,
      stderr: oneLine(new RegExp(`PORT ${port} is in use`))
    })
  })

  t.test('over PostgreSQL names missing tables in one line, and reports an outage on /health', async t => {
    const pg = await server(t)
    const environment = { ...SECRETS, DATABASE_URL: await pg.empty() }
    const without = await build.run('server/main.js', [], { ...environment, PORT: '0' })
    t.match(without, {
      code: 1,
      stdout: '',
      stderr: oneLine(/quota tables are not as this version needs them.*fastify-quota init/)
    })
    t.equal((await build.run('cli/main.js', ['init'], environment)).code, 0)
    const running = await start(build, environment)
    t.notMatch(running.server.stdout(), ADMIN_TOKEN, "an operator's token stays out of the logs")
    t.equal((await running.call('POST', '/process/p/2026-01-31')).status, 202)
    const health = await running.call('GET', '/health', '')
    t.match([health.status, JSON.parse(health.body)], [200, { status: 'healthy', database: 'reachable' }])
    await pg.instance.stop()
    const outage = await running.call('GET', '/health', '')
    t.match([outage.status, JSON.parse(outage.body)], [503, { status: 'unhealthy', database: 'unreachable' }])
    await pg.instance.start()
    await stop(t, running.server)
  })
})

t.test('npm start shuts its server down cleanly when npm receives SIGTERM', async t => {
  const npm = await npmStart(t, { PORT: '0', ...SECRETS })
  await npm.until('/usage-logs')
  npm.child.kill('SIGTERM')
  // Resolves only once nobody holds its stdout any more, which means that the server has ended, too.
  const { code, stdout } = await npm.ended
  t.equal(code, 0)
  t.match(stdout, '"closing"')
})

const greetingOf = (stdout: string): string => stdout.slice(stdout.indexOf('\nfastify-quota listens'))

/** Exactly one line, which matches, and no stack trace. */
const oneLine = (pattern: RegExp): RegExp => new RegExp(`^fastify-quota: [^\\n]*${pattern.source}[^\\n]*\\n$`)

async function inTurn(lines: readonly string[]): Promise<string[]> {
  const outputs: string[] = []
  for (const line of lines) outputs.push((await bash(line)).stdout)
  return outputs
}

/** Resolves once it is closed or reset. */
const closed = (client: ClientRequest | Socket): Promise<unknown> =>
  new Promise(resolve => client.on('error', () => {}).once('close', resolve))

async function stop(t: Test, server: Running): Promise<void> {
  server.child.kill('SIGTERM')
  const { code, stderr } = await server.ended
  t.equal(code, 0)
  t.equal(stderr, '')
}

interface Started {
  server: Running
  url: string
  token: string
  adminToken: string | undefined
  call(method: string, path: string, token?: string): Promise<{ status: number; body: string }>
  /** A request whose body is left for the caller to send. */
  upload(path: string, bytes: number): ClientRequest
}

async function start({ start }: Built, environment: Record<string, string>): Promise<Started> {
  const server = start('server/main.js', [], { PORT: '0', ...environment })
  const printed = greetingOf(await server.until('/usage-logs'))
  const url = /listens on (http:\/\/[^,]+),/.exec(printed)![1]!
  const token = /Bearer ([^']+)'/.exec(printed)![1]!
  return {
    server,
    url,
    token,
    adminToken: /admin token.*:\n(.*)\n/.exec(printed)?.[1],
    async call(method, path, as = token) {
      const reply = await fetch(url + path, { method, headers: as === '' ? {} : { authorization: `Bearer ${as}` } })
      return { status: reply.status, body: await reply.text() }
    },
    upload: (path, bytes) =>
      request(url + path, { method: 'POST', headers: { authorization: `Bearer ${token}`, 'content-length': bytes } })
  }
}
