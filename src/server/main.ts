// The process of the standalone server: starts it, says what to try, and ends it in order.
import type { FastifyInstance } from 'fastify'
import { explainConnection } from '../store/connection/explain.ts'
import { buildServer } from './app.ts'
import { greeting } from './greeting.ts'
import { readSettings, SettingError, type Settings } from './settings.ts'

const SIGNALS = ['SIGTERM', 'SIGINT'] as const

// Heard from the first moment on, so that a signal during the boot ends it in order too. A second one is not waited for.
const signalled = new Promise<NodeJS.Signals>(resolve => {
  for (const signal of SIGNALS) process.once(signal, resolve)
})

try {
  const settings = readSettings(process.env)
  const app = await buildServer(settings)
  await listen(app, settings)
  process.stdout.write(`${greeting(app, settings)}\n`)
  await end(app, await signalled)
} catch (error) {
  // One line, and no stack: what is wrong here is a setting, a database or a port.
  process.stderr.write(`fastify-quota: ${explainConnection(error, 'DATABASE_URL')}\n`)
  process.exit(1)
}

async function listen(app: FastifyInstance, { host, port }: Settings): Promise<void> {
  try {
    await app.listen({ host, port })
  } catch (error) {
    await app.close()
    throw new SettingError(listenProblem((error as NodeJS.ErrnoException).code, host, port) ?? (error as Error).message)
  }
}

function listenProblem(code: string | undefined, host: string, port: number): string | undefined {
  switch (code) {
    case 'EADDRINUSE':
      return `PORT ${port} is in use on ${host}. Stop what listens there, or set PORT to another.`
    case 'EACCES':
      return `PORT ${port} may not be opened by this user. Set PORT to one above 1023.`
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `HOST ${host} is not an address of this machine. Set HOST=127.0.0.1, or 0.0.0.0 for all its addresses.`
  }
  return undefined
}

/** Running requests end, what is owed is written, the database is closed. */
async function end(app: FastifyInstance, signal: NodeJS.Signals): Promise<never> {
  app.log.info({ signal }, 'closing')
  await app.close()
  process.exit(0)
}
