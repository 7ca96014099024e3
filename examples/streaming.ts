// A reply whose cost is known only when it ends: an estimate is reserved, and what was really streamed is charged.
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import Fastify, { type FastifyServerOptions } from 'fastify'
import quotaPlugin from 'fastify-quota'

/** The longest possible answer. A user with fewer tokens left is refused before the model starts. */
const MAX_TOKENS = 100

/** Stands for a language model: a token for each word of the question. */
async function* answer(question: string) {
  for (const word of question.split(' ').slice(0, MAX_TOKENS)) {
    await sleep(5)
    yield `${word.toUpperCase()} `
  }
}

export async function build(options: FastifyServerOptions = { logger: true }) {
  const app = Fastify(options)

  await app.register(quotaPlugin, {
    quotas: { tokens: { name: 'Tokens', unit: 'token', limit: 1000, period: 'day' } },
    identify: request => String(request.headers['x-user-id'] ?? '')
  })

  app.post<{ Body: { question: string } }>(
    '/chat',
    { config: { quota: { type: 'tokens', amount: MAX_TOKENS } } },
    async (request, reply) => {
      async function* metered() {
        let tokens = 0
        // If the client leaves halfway, what was streamed until then is charged.
        for await (const token of answer(request.body.question)) {
          request.quota.setAmount('tokens', ++tokens)
          yield token
        }
      }
      return reply.type('text/plain').send(Readable.from(metered()))
    }
  )

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await build()
  await app.listen({ port: 3000 })
  app.log.info(
    `Try: curl -iN -H "X-User-Id: alice" --json '{"question": "how many tokens is this"}' http://localhost:3000/chat`
  )
}
