// The application whose routes doctor looks at: from a file, or the standalone server's.
import { randomBytes } from 'node:crypto'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { inspect } from 'node:util'
import Fastify, { type FastifyInstance, type FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { buildServer } from '../server/app.ts'

/** A plugin function takes (fastify, options); a builder takes nothing. */
type Exported = FastifyInstance | FastifyPluginAsync | (() => FastifyInstance | Promise<FastifyInstance>)

/** Not ready yet; the caller closes it. */
export async function loadApp(file: string): Promise<FastifyInstance> {
  const exported = await importDefault(file)
  if (isInstance(exported)) return exported
  if (typeof exported !== 'function')
    throw new Error(
      `${file} must export a Fastify instance, a function that returns one, or a Fastify plugin, as its default.`
    )
  if (exported.length === 0) {
    const built = await (exported as () => Promise<unknown>)()
    if (isInstance(built)) return built
    throw new Error(`The function that ${file} exports has no parameters, so it must return a Fastify instance.`)
  }
  const app = Fastify()
  // What it decorates must be visible from outside, as with fastify-cli.
  app.register(fp(exported as FastifyPluginAsync))
  return app
}

async function importDefault(file: string): Promise<Exported | undefined> {
  try {
    const module = await import(pathToFileURL(resolve(file)).href)
    // The default of a CommonJS module is `module.exports`, which may be a compiled ES module's namespace.
    const exported = module.default?.default ?? module.default ?? module.app
    return exported as Exported | undefined
  } catch (error) {
    throw new Error(`${file} cannot be loaded: ${thrown(error)}`, { cause: error })
  }
}

/** What the application threw, which may be anything. */
export const thrown = (error: unknown): string =>
  error instanceof Error ? error.message : `${inspect(error)} was thrown, which is no Error`

const isInstance = (value: unknown): value is FastifyInstance =>
  typeof value === 'object' && value !== null && typeof (value as FastifyInstance).ready === 'function'

/** Its routes are the same over any database: over one in memory, looking at them writes nothing. */
export const standaloneApp = (): Promise<FastifyInstance> =>
  buildServer({
    host: '127.0.0.1',
    port: 0,
    logLevel: 'silent',
    isAuthEnabled: true,
    isQuotaEnabled: true,
    connection: { dataDir: 'memory://' },
    adminToken: randomBytes(24).toString('hex'),
    isAdminTokenKept: false,
    jwtSecret: randomBytes(32).toString('hex')
  })
