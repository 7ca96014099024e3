// A user's quotas as JSON: the body that the operator and the user themselves read.
import { type NamedBalance, usagePercent } from './balance.ts'

export interface QuotaEntry {
  type_key: string
  name: string
  unit: string
  kind: 'flow' | 'level'
  limit: number
  used: number
  reserved: number
  remaining: number
  usage_percent: number | null
  period_start: string
  resets_at: string | null
}

export interface QuotaDocument {
  user_id: string
  total_quotas: number
  quotas: QuotaEntry[]
}

export const quotaDocument = (userId: string, quotas: readonly NamedBalance[]): QuotaDocument => ({
  user_id: userId,
  total_quotas: quotas.length,
  quotas: quotas.map(quotaEntry)
})

export const quotaEntry = (quota: NamedBalance): QuotaEntry => ({
  type_key: quota.type,
  name: quota.name,
  unit: quota.unit,
  kind: quota.kind,
  limit: quota.limit,
  used: quota.used,
  reserved: quota.reserved,
  remaining: quota.remaining,
  usage_percent: usagePercent(quota),
  period_start: quota.periodStart.toISOString(),
  resets_at: quota.resetsAt?.toISOString() ?? null
})

const integer = (description: string) => ({ type: 'integer', description })

export const QUOTA_SCHEMA = {
  type: 'object',
  required: [
    'type_key',
    'name',
    'unit',
    'kind',
    'limit',
    'used',
    'reserved',
    'remaining',
    'usage_percent',
    'period_start',
    'resets_at'
  ],
  properties: {
    type_key: { type: 'string' },
    name: { type: 'string' },
    unit: { type: 'string', description: 'What an amount counts: call, byte, token …' },
    kind: {
      type: 'string',
      enum: ['flow', 'level'],
      description: 'A flow starts again each period; a level goes up and down and never resets.'
    },
    limit: integer('The most that may be used; -1 means unlimited.'),
    used: integer('Charged, and in the usage log.'),
    reserved: integer('Held by work that is still running.'),
    remaining: integer('limit − used − reserved, never below 0; -1 means unlimited.'),
    usage_percent: {
      type: ['number', 'null'],
      description: 'used + reserved as a percentage of the limit; null if unlimited.'
    },
    period_start: { type: 'string', format: 'date-time' },
    resets_at: {
      type: ['string', 'null'],
      format: 'date-time',
      description: 'When the period ends; null if it never does.'
    }
  }
} as const

export const QUOTA_DOCUMENT_SCHEMA = {
  type: 'object',
  description: "A user's quotas, as they are now.",
  required: ['user_id', 'total_quotas', 'quotas'],
  properties: {
    user_id: { type: 'string' },
    total_quotas: integer('How many quotas there are.'),
    quotas: {
      type: 'array',
      items: QUOTA_SCHEMA
    }
  }
} as const
