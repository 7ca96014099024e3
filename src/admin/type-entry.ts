// A quota type as JSON.
import { PERIOD_UNITS } from '../quota/period.ts'
import type { QuotaType } from '../quota/quota-type.ts'
import { TIME } from './schemas.ts'

export const TYPE_ENTRY = {
  type: 'object',
  required: [
    'type_key',
    'name',
    'description',
    'unit',
    'kind',
    'period',
    'default_limit',
    'is_active',
    'created_at',
    'updated_at'
  ],
  properties: {
    type_key: { type: 'string' },
    name: { type: 'string' },
    description: { type: ['string', 'null'] },
    unit: { type: 'string' },
    kind: { type: 'string', enum: ['flow', 'level'] },
    period: { type: 'string', enum: PERIOD_UNITS },
    default_limit: { type: 'integer', description: 'The limit that new users get; -1 means unlimited.' },
    is_active: { type: 'boolean', description: 'If false, nothing is charged to it, and new users do not get it.' },
    created_at: TIME,
    updated_at: TIME
  }
} as const

export const typeEntry = (type: QuotaType) => ({
  type_key: type.key,
  name: type.name,
  description: type.description,
  unit: type.unit,
  kind: type.kind,
  period: type.period,
  default_limit: type.defaultLimit,
  is_active: type.isActive,
  created_at: type.createdAt.toISOString(),
  updated_at: type.updatedAt.toISOString()
})
