// A level: stored bytes. It goes up with an upload, down with a deletion, and never resets.
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import Fastify, { type FastifyRequest, type FastifyServerOptions } from 'fastify'
import quotaPlugin from 'fastify-quota'

const MAX_UPLOAD = 1024 * 1024

const userOf = (request: FastifyRequest) => String(request.headers['x-user-id'] ?? '')

export async function build(options: FastifyServerOptions = { logger: true }) {
  const app = Fastify({ bodyLimit: MAX_UPLOAD, ...options })
  const files = new Map<string, { owner: string; bytes: Buffer }>()

  await app.register(quotaPlugin, {
    quotas: { storage: { name: 'Storage', unit: 'byte', kind: 'level', limit: 10 * MAX_UPLOAD } },
    identify: userOf
  })

  app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) =>
    done(null, body)
  )

  // Reserved before the body is read: what the client announces, or the most that is accepted.
  const amount = (request: FastifyRequest) => Number(request.headers['content-length'] ?? MAX_UPLOAD)

  app.post('/files', { config: { quota: { type: 'storage', amount } } }, async (request, reply) => {
    const id = randomUUID()
    const bytes = gzipSync(request.body as Buffer)
    files.set(id, { owner: userOf(request), bytes })
    // What is charged is what is really kept.
    request.quota.setAmount('storage', bytes.length)
    return reply.code(201).send({ id, size: bytes.length })
  })

  app.delete<{ Params: { id: string } }>('/files/:id', async (request, reply) => {
    const { id } = request.params
    const file = files.get(id)
    if (file?.owner !== userOf(request)) return reply.code(404).send({ error: 'There is no such file of yours' })
    // The key makes it safe to repeat: a file is given back once.
    await app.quota.credit(file.owner, 'storage', file.bytes.length, { idempotencyKey: `delete ${id}` })
    files.delete(id)
    return reply.code(204).send()
  })

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await build()
  await app.listen({ port: 3000 })
  app.log.info(
    'Try: curl -i -H "X-User-Id: alice" -H "Content-Type: application/octet-stream" --data-binary @package.json http://localhost:3000/files'
  )
}
