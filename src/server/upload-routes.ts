// The routes that take files: counted as they stream by, charged in bytes, never held in memory and kept nowhere.
import { randomUUID } from 'node:crypto'
import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { problemAnswer } from '../quota/problem.ts'
import { meteredRefusals, PATH_REFUSALS, refuse } from './answers.ts'
import { callerOf } from './caller.ts'
import type { Imaging } from './imaging.ts'
import type { Settings } from './settings.ts'
import { STUDY_PARAMS } from './task-routes.ts'

const received = (isQuotaEnabled: boolean) => ({
  description: isQuotaEnabled ? 'The file was received and charged.' : 'The file was received.',
  type: 'object',
  required: ['status', 'upload_id', 'bytes'],
  properties: {
    status: { type: 'string', enum: ['ok'] },
    upload_id: { type: 'string' },
    bytes: { type: 'integer', description: isQuotaEnabled ? 'What was received and charged.' : 'What was received.' }
  }
})

const BODY_MEANING =
  'The body is the file, whatever its content type, and is counted as sent: a form counts in full. Content-Length is required.'

/** What the uploads have in common. */
type Schema = ReturnType<typeof schemaOf>

const schemaOf = ({ isQuotaEnabled }: Pick<Settings, 'isQuotaEnabled'>) => ({
  description: isQuotaEnabled ? `${BODY_MEANING} That much is reserved while the upload runs.` : BODY_MEANING,
  tags: ['imaging'],
  response: {
    201: received(isQuotaEnabled),
    ...meteredRefusals(isQuotaEnabled),
    411: problemAnswer('Content-Length is missing.')
  }
})

export async function uploadRoutes(
  api: FastifyInstance,
  imaging: Imaging,
  settings: Pick<Settings, 'isQuotaEnabled'>
): Promise<void> {
  await api.register(async uploads => {
    // No parser of Fastify's: each of them would read the whole body into memory.
    uploads.removeAllContentTypeParsers()
    uploads.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    uploads.addHook('onRequest', requireLength)
    const schema = schemaOf(settings)
    uploadDicomRoute(uploads, imaging, schema)
    uploadMaskRoute(uploads, imaging, schema)
  })
}

/** After the guard: a request that announces nothing holds 0 bytes, and they are released at once. */
async function requireLength(request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  if (request.headers['content-length'] !== undefined) return
  return refuse(
    reply,
    411,
    'FST_QUOTA_LENGTH_REQUIRED',
    'An upload must give its size in Content-Length, so that the storage it needs can be reserved; send it without chunked encoding.'
  )
}

function uploadDicomRoute(uploads: FastifyInstance, imaging: Imaging, schema: Schema): void {
  uploads.route<{ Querystring: { patient_name: string; study_date?: string } }>({
    method: 'POST',
    url: '/upload_dicom_zip',
    schema: {
      ...schema,
      summary: 'Upload a scan',
      querystring: {
        type: 'object',
        properties: {
          patient_name: { type: 'string', minLength: 1, maxLength: 255, default: 'unknown' },
          study_date: { type: 'string', minLength: 1, maxLength: 255, description: 'Default: today, in UTC.' }
        }
      }
    },
    handler: async (request, reply) => {
      const { patient_name: patient, study_date: date = new Date().toISOString().slice(0, 10) } = request.query
      return await receive(request, reply, 'storage_dicom', () => imaging.noteUpload(callerOf(request), patient, date))
    }
  })
}

function uploadMaskRoute(uploads: FastifyInstance, imaging: Imaging, schema: Schema): void {
  uploads.route<{ Params: { patient: string; date: string } }>({
    method: 'POST',
    url: '/upload_l3_mask/:patient/:date',
    schema: {
      ...schema,
      summary: 'Upload an L3 mask drawn by hand',
      params: STUDY_PARAMS,
      response: { ...schema.response, ...PATH_REFUSALS }
    },
    handler: async (request, reply) => {
      const { patient, date } = request.params
      return await receive(request, reply, 'storage_results', () =>
        imaging.noteUpload(callerOf(request), patient, date)
      )
    }
  })
}

/** Each upload counts beside the earlier ones, as if it were stored: it replaces none. */
async function receive(
  request: FastifyRequest,
  reply: FastifyReply,
  type: string,
  note: () => void
): Promise<FastifyReply> {
  const bytes = await countBytes(request.body as Readable | undefined)
  if (bytes === undefined)
    return refuse(
      reply,
      400,
      'FST_QUOTA_UPLOAD_CUT_OFF',
      'The upload was cut off before all of its Content-Length had arrived.'
    )
  if (bytes === 0) return refuse(reply, 400, 'FST_QUOTA_UPLOAD_EMPTY', 'The upload is empty.')
  // It is missing with ENABLE_QUOTA=false.
  request.quota?.setAmount(type, bytes)
  note()
  return reply.code(201).send({ status: 'ok', upload_id: randomUUID(), bytes })
}

/** Undefined: the client left. */
async function countBytes(body: Readable | undefined): Promise<number | undefined> {
  let bytes = 0
  try {
    for await (const chunk of body ?? []) bytes += (chunk as Buffer).length
    return bytes
  } catch {
    return undefined
  }
}
