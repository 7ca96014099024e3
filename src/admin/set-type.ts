// PUT /quota-types/:key: creates a quota type, or changes one.
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { MAX_AMOUNT, UNLIMITED } from '../quota/amount.ts'
import { FST_QUOTA_KIND_MISMATCH } from '../quota/errors.ts'
import { PERIOD_UNITS } from '../quota/period.ts'
import { hasControlCharacters, isTypeKey, type QuotaType, TYPE_DEFAULTS } from '../quota/quota-type.ts'
import { listTypes } from '../store/catalogue/list-types.ts'
import { setType, type TypeChange } from '../store/catalogue/set-type.ts'
import { type AdminContext, actorOf } from './context.ts'
import { checkLimit, checkText, refuse } from './input.ts'
import { body, CHANGE_REFUSALS, query, REASON_FIELD, refusals } from './schemas.ts'
import { TYPE_ENTRY, typeEntry } from './type-entry.ts'

const KINDS = ['flow', 'level'] as const

const BODY = body({
  name: { type: 'string', description: 'The display name. Default: the key.', examples: ['L3 detection'] },
  description: { type: ['string', 'null'], description: 'A sentence for the operator.' },
  unit: {
    type: 'string',
    description: `What an amount counts. Default: ${TYPE_DEFAULTS.unit}.`,
    examples: ['call']
  },
  kind: {
    type: 'string',
    enum: KINDS,
    description: `flow starts again each period; level goes up and down. The kind cannot be changed (409). Default: ${TYPE_DEFAULTS.kind}.`
  },
  period: {
    type: 'string',
    enum: PERIOD_UNITS,
    description: `How often a flow starts again; a change applies from the next period on. Default: ${TYPE_DEFAULTS.period}; for a level: never.`
  },
  default_limit: {
    type: 'integer',
    minimum: UNLIMITED,
    maximum: MAX_AMOUNT,
    description:
      'The limit that new users get, 0 to 2^53−1, or -1 for unlimited. Required for a new type. Users who have a limit keep it until it is adjusted.',
    examples: [200]
  },
  is_active: {
    type: 'boolean',
    description:
      'If false, nothing is charged to it, and new users do not get it; balances and logs stay. Other processes follow within five seconds. Default: true.'
  },
  reason: REASON_FIELD
})

const PARAMS = {
  type: 'object',
  required: ['key'],
  properties: { key: { type: 'string', description: 'Must match [a-z][a-z0-9_]{0,99}.', examples: ['scans'] } }
} as const

export function setTypeRoute(admin: FastifyInstance, { db, types, changed }: AdminContext): void {
  admin.route({
    method: 'PUT',
    url: '/quota-types/:key',
    schema: {
      operationId: 'setQuotaType',
      summary: 'Create or change a quota type',
      description:
        'Fields left out keep their values. A name or unit with control characters is refused. Where the application declares the type, what is changed here stays until the declaration changes.',
      params: PARAMS,
      querystring: query({}),
      body: BODY,
      response: {
        ...refusals(...CHANGE_REFUSALS, 422),
        200: { ...TYPE_ENTRY, description: 'The quota type was changed.' },
        201: { ...TYPE_ENTRY, description: 'The quota type was created.' }
      }
    },
    handler: async (request, reply) => {
      const { key } = request.params as { key: string }
      if (!isTypeKey(key)) throw refuse('key', 'must match [a-z][a-z0-9_]{0,99}')
      const change = readChange(request)
      const known = (await listTypes(db)).find(type => type.key === key)
      refuseContradiction(key, change, known)
      const outcome = await setType(db, key, change, actorOf(request)).finally(() => changed())
      if (outcome === 'another kind') throw kindMismatch(key, change.kind === 'flow' ? 'level' : 'flow')
      if (outcome === 'without a limit') throw limitMissing()
      await types.refresh()
      const type = (await listTypes(db)).find(type => type.key === key) as QuotaType
      reply.code(outcome === 'created' ? 201 : 200)
      return typeEntry(type)
    }
  })
}

function readChange(request: FastifyRequest): TypeChange {
  const { reason: _, ...change } = request.body as TypeChange & { reason?: unknown }
  for (const field of ['name', 'unit'] as const) {
    checkText(field, change[field])
    if (change[field]?.trim() === '') throw refuse(field, 'must be a non-empty string')
  }
  checkText('description', change.description)
  for (const field of ['name', 'unit'] as const)
    if (hasControlCharacters(change[field] ?? '')) throw refuse(field, 'must not have control characters')
  if (change.kind !== undefined && !KINDS.includes(change.kind))
    throw refuse('kind', `must be one of ${KINDS.join(', ')}`)
  if (change.period !== undefined && !PERIOD_UNITS.includes(change.period))
    throw refuse('period', `must be one of ${PERIOD_UNITS.join(', ')}`)
  if (change.default_limit !== undefined) checkLimit('default_limit', change.default_limit)
  if (Object.keys(change).length === 0)
    throw refuse('body', 'names nothing to change; a new type needs at least default_limit')
  return change
}

/** What can be told without asking the table; the statement looks again. */
function refuseContradiction(key: string, change: TypeChange, known: QuotaType | undefined): void {
  const kind = known?.kind ?? change.kind ?? TYPE_DEFAULTS.kind
  if (known !== undefined && change.kind !== undefined && change.kind !== known.kind)
    throw kindMismatch(key, known.kind)
  if (kind === 'level' && change.period !== undefined && change.period !== 'never')
    throw refuse('period', 'must be left out: a level never resets')
  if (known === undefined && change.default_limit === undefined) throw limitMissing()
}

const kindMismatch = (key: string, kind: string): Error =>
  Object.assign(
    new FST_QUOTA_KIND_MISMATCH(key, kind, 'its usage log relies on that; create the other kind under a new key'),
    {
      field: 'kind'
    }
  )

const limitMissing = (): Error =>
  refuse('default_limit', 'is missing; a new type needs one: a whole number, or -1 for unlimited')
