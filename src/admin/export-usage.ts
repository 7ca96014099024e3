// The usage log as a file: streamed as it is read, and read no faster than the client takes it.
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { FST_QUOTA_TOO_MANY_EXPORTS } from '../quota/errors.ts'
import type { UsageEntry } from '../store/operator/list-usage.ts'
import { answerError } from './answer-error.ts'
import { csvLines } from './csv.ts'
import { usageEntry } from './usage-entry.ts'

const FORMATS = {
  csv: {
    type: 'text/csv; charset=utf-8; header=present',
    file: 'usage-logs.csv',
    head: csvLines([csvNames()]),
    lines: csv
  },
  ndjson: { type: 'application/x-ndjson; charset=utf-8', file: 'usage-logs.ndjson', head: '', lines: ndjson }
} as const

/** At the same time in this process: each has a connection to the database, or a share of the only one. */
const MAX_EXPORTS = 2
const RETRY_SECONDS = 10
/** A client that takes nothing for this long holds a snapshot of the database that others pay for. A slow one reads from full buffers first. */
const STALL_MS = 5 * 60_000

/** The exports that run. A closing application does not wait for them. */
export class ExportSlots {
  readonly #running = new Set<Readable>()

  constructor(admin: FastifyInstance) {
    admin.addHook('preClose', async () => {
      for (const stream of this.#running) stream.destroy(new Error('the application closes'))
    })
  }

  get isFull(): boolean {
    return this.#running.size >= MAX_EXPORTS
  }

  hold(stream: Readable): void {
    this.#running.add(stream)
    stream.once('close', () => this.#running.delete(stream))
  }
}

export async function sendExport(
  slots: ExportSlots,
  format: keyof typeof FORMATS,
  rows: () => AsyncGenerator<UsageEntry[]>,
  request: FastifyRequest,
  reply: FastifyReply
): Promise<FastifyReply> {
  const { type, file, head, lines } = FORMATS[format]
  if (slots.isFull) {
    reply.header('retry-after', RETRY_SECONDS)
    return answerError(new FST_QUOTA_TOO_MANY_EXPORTS(MAX_EXPORTS), request, reply)
  }
  reply.type(type).header('content-disposition', `attachment; filename="${file}"`)
  // The log would be read to its end for nothing. A stream, because Fastify states the length of a text.
  if (request.method === 'HEAD') return reply.send(Readable.from([]))
  const stream = streamOf(rows(), head, lines)
  slots.hold(stream)
  // Fastify looks after it once it is sent.
  reply.raw.once('close', () => stream.destroy())
  await firstOf(stream)
  return reply.send(stream)
}

/** Until there is something to send, a failing store is a 503; later it can only cut the reply short. */
const firstOf = (stream: Readable): Promise<void> =>
  new Promise((resolve, reject) => {
    stream
      .once('readable', () => resolve())
      .once('error', reject)
      .once('close', () => resolve())
  })

function streamOf(
  rows: AsyncGenerator<UsageEntry[]>,
  head: string,
  lines: (batch: readonly UsageEntry[]) => string
): Readable {
  let stall: NodeJS.Timeout | undefined
  const stream = Readable.from(texts(), { objectMode: false })
  // Even if it was never read from: the generator below would not come to its own end then.
  stream.once('close', () => {
    clearTimeout(stall)
    void rows.return(undefined)
  })
  return stream

  async function* texts(): AsyncGenerator<string> {
    let before = head
    for await (const batch of rows) {
      stall = setTimeout(() => stream.destroy(new Error(`the client took nothing for ${STALL_MS} ms`)), STALL_MS)
      yield before + lines(batch)
      clearTimeout(stall)
      before = ''
    }
    if (before !== '') yield before
  }
}

function ndjson(batch: readonly UsageEntry[]): string {
  return batch.map(row => `${JSON.stringify(usageEntry(row))}\n`).join('')
}

function csvNames(): string[] {
  return ['id', 'user_id', 'quota_type', 'amount', 'endpoint', 'metadata', 'created_at']
}

function csv(batch: readonly UsageEntry[]): string {
  return csvLines(
    batch.map(row => [
      row.id,
      row.userId,
      row.quotaType,
      row.amount,
      row.endpoint,
      row.metadata,
      row.createdAt.toISOString()
    ])
  )
}
