// How an error of an admin route is answered: as problem details that name the field and what it takes, but nothing internal.
import type { FastifyReply, FastifyRequest } from 'fastify'
import { FST_QUOTA_CHANGE_REFUSED, FST_QUOTA_FAILED, FST_QUOTA_STORE, FST_QUOTA_UNKNOWN_TYPE } from '../quota/errors.ts'
import { PROBLEM_JSON, problem, STORE_RETRY_SECONDS } from '../quota/problem.ts'
import { stateOf } from '../store/database.ts'

interface Invalid {
  instancePath: string
  params: Record<string, unknown>
  message?: string
  parentSchema?: { description?: string; properties?: object }
}

export interface RequestError extends Error {
  statusCode?: number
  code?: string
  field?: string
  validation?: readonly Invalid[]
  validationContext?: string
}

/** As text, which no serializer of the application changes. */
export function answerError(given: RequestError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const error = refusalOf(given) ?? given
  const [status, detail] = describe(error, request)
  if (status >= 500 || error !== given) request.log.error({ err: error }, 'quota admin request failed')
  if (status === 503) reply.header('retry-after', STORE_RETRY_SECONDS)
  return reply
    .code(status)
    .type(PROBLEM_JSON)
    .send(JSON.stringify(problem(status, codeOf(error, status), detail, fieldOf(error))))
}

/** The database's own refusal of a change: by a constraint (23…), or by what a trigger raises (P0001). */
function refusalOf(error: RequestError): RequestError | undefined {
  const state = error instanceof FST_QUOTA_STORE ? (stateOf(error) ?? '') : ''
  return /^(23|P0001)/.test(state) ? new FST_QUOTA_CHANGE_REFUSED(state, { cause: error }) : undefined
}

/** What Fastify or the application refuses gets a code of ours, too: the client need not know who refused. */
function codeOf({ code }: RequestError, status: number): string {
  if (code?.startsWith('FST_QUOTA_')) return code
  if (status >= 500) return 'FST_QUOTA_FAILED'
  return CODES[status] ?? 'FST_QUOTA_INVALID_REQUEST'
}

const CODES: Readonly<Record<number, string>> = {
  401: 'FST_QUOTA_FORBIDDEN',
  403: 'FST_QUOTA_FORBIDDEN',
  429: 'FST_QUOTA_TOO_MANY_ATTEMPTS'
}

/** Fastify's errors about a body that it could not read, with what it takes. */
const BODY_ERRORS: Readonly<Record<string, string>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'The body is too large; a few kilobytes are enough here.',
  FST_ERR_CTP_INVALID_JSON_BODY: 'The body is not valid JSON, or has the key __proto__ or constructor.',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'The body must be JSON, with the header Content-Type: application/json.',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'The body is empty: leave out the header Content-Type, or send a JSON object.'
}

/** Internal errors are not disclosed. */
function describe(error: RequestError, { method }: FastifyRequest): [status: number, detail: string] {
  if (error instanceof FST_QUOTA_STORE) return [503, method === 'GET' || method === 'HEAD' ? NO_ANSWER : NO_WORD]
  if (error instanceof FST_QUOTA_UNKNOWN_TYPE) return [404, unknownType(error)]
  const status = error.statusCode ?? 500
  if (status >= 500) return [500, new FST_QUOTA_FAILED().message]
  return [status, error.validation ? validationDetail(error) : (BODY_ERRORS[error.code ?? ''] ?? error.message)]
}

const NO_ANSWER = 'The quota database is not answering at the moment.'
/** A statement that was given up on may still be carried out. */
const NO_WORD = `${NO_ANSWER} Check whether the change was made before you send it again.`

/** The error addresses whoever writes the application's options; here an operator named the type. */
const unknownType = ({ message }: Error): string =>
  `${message.slice(0, message.lastIndexOf(' (')).slice(0, 200)}. GET /quota-types lists them, and PUT /quota-types/:key creates one.`

function validationDetail({ validation, validationContext }: RequestError): string {
  const [first] = validation as readonly [Invalid]
  const part = validationContext === 'querystring' ? 'query' : (validationContext ?? 'request')
  const where = `${part}${first.instancePath.replaceAll('/', '.')}`
  if (part === 'query' && first.instancePath !== '') return `${where} is given more than once; give it once.`
  const { description, properties } = first.parentSchema ?? {}
  const unknown = first.params.additionalProperty
  if (unknown === undefined) return `${where} ${first.message}.${description === undefined ? '' : ` ${description}`}`
  const known = Object.keys(properties ?? {}).join(', ')
  return `${where} has '${String(unknown)}', which is not known here; ${known === '' ? 'leave it empty' : `known: ${known}`}.`
}

function fieldOf({ validation, field, code }: RequestError): { field?: string } {
  if (field !== undefined) return { field }
  if (code !== undefined && code in BODY_ERRORS) return { field: 'body' }
  const [first] = validation ?? []
  const name =
    first?.params.additionalProperty ?? first?.params.missingProperty ?? first?.instancePath.split('/').at(-1)
  return typeof name === 'string' && name !== '' ? { field: name } : first === undefined ? {} : { field: 'body' }
}
