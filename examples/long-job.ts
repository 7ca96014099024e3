// Work that outlives its request: held when it is accepted, charged when it is done, given back when it fails.
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import Fastify, { type FastifyServerOptions } from 'fastify'
import quotaPlugin, { type Reservation } from 'fastify-quota'

/** Stands for the work; returns the minutes that it really took. */
async function transcode(video: string): Promise<number> {
  await sleep(100)
  if (video.endsWith('.txt')) throw new Error('This is not a video')
  return 3
}

export async function build(options: FastifyServerOptions = { logger: true }) {
  const app = Fastify(options)
  const states = new Map<string, 'running' | 'done' | 'failed'>()
  const running = new Set<Promise<void>>()

  await app.register(quotaPlugin, {
    quotas: { minutes: { name: 'Transcoding', unit: 'minute', limit: 60, period: 'month' } },
    identify: request => String(request.headers['x-user-id'] ?? '')
  })

  async function work(id: string, video: string, reservation: Reservation): Promise<void> {
    const minutes = await transcode(video).catch(error => app.log.warn({ err: error, job: id }, 'job failed'))
    states.set(id, minutes ? 'done' : 'failed')
    if (minutes) await reservation.commit({ amounts: { minutes }, metadata: { job: id } })
    else await reservation.release()
  }

  app.post<{ Body: { video: string } }>('/jobs', async (request, reply) => {
    const user = String(request.headers['x-user-id'] ?? '')
    // A job may take ten minutes at most. If fewer are left, this throws, and the answer is 402.
    const reservation = await app.quota.reserve(user, { type: 'minutes', amount: 10 }, { endpoint: '/jobs' })
    const id = randomUUID()
    states.set(id, 'running')
    const job = work(id, request.body.video, reservation)
      .catch(error => app.log.error({ err: error, job: id }, 'job could not be settled'))
      .finally(() => running.delete(job))
    running.add(job)
    return reply.code(202).header('location', `/jobs/${id}`).send({ id })
  })

  app.get<{ Params: { id: string } }>('/jobs/:id', async request => ({ state: states.get(request.params.id) }))

  // Runs before the plugin closes its database: what still runs is finished, and charged.
  app.addHook('onClose', async () => void (await Promise.all(running)))

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await build()
  await app.listen({ port: 3000 })
  app.log.info(`Try: curl -i -H "X-User-Id: alice" --json '{"video": "cat.mp4"}' http://localhost:3000/jobs`)
}
