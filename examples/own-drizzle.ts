// Quotas in the application's own Drizzle database, next to its own tables: see own-drizzle/ for schema and migrations.
import { fileURLToPath } from 'node:url'
import { count, eq, sum } from 'drizzle-orm'
import Fastify, { type FastifyRequest, type FastifyServerOptions } from 'fastify'
import quotaPlugin from 'fastify-quota'
import { openDatabase } from './own-drizzle/database.ts'
import { notes, usageLogs } from './own-drizzle/schema.ts'

const userOf = (request: FastifyRequest) => String(request.headers['x-user-id'] ?? '')

export async function build(options: FastifyServerOptions = { logger: true }) {
  const app = Fastify(options)
  const { db, close } = await openDatabase()

  // It stays the application's: whoever opened it closes it. Hooks run last come, first served, so this one is the last.
  app.addHook('onClose', close)

  await app.register(quotaPlugin, {
    connection: db,
    quotas: { notes: { unit: 'note', limit: 5, period: 'day' } },
    identify: userOf
  })

  app.post<{ Body: { text: string } }>('/notes', { config: { quota: 'notes' } }, async (request, reply) => {
    const [note] = await db
      .insert(notes)
      .values({ owner: userOf(request), text: request.body.text })
      .returning()
    return reply.code(201).send(note)
  })

  // The quota tables are Drizzle tables like any other.
  app.get('/notes/statistics', async request => {
    const owner = userOf(request)
    const [kept] = await db.select({ notes: count() }).from(notes).where(eq(notes.owner, owner))
    const [charged] = await db
      .select({ charged: sum(usageLogs.amount).mapWith(Number) })
      .from(usageLogs)
      .where(eq(usageLogs.userId, owner))
    return { ...kept, ...charged }
  })

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await build()
  await app.listen({ port: 3000 })
  app.log.info(`Try: curl -i -H "X-User-Id: alice" --json '{"text": "milk"}' http://localhost:3000/notes`)
}
