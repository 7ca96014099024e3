// A row of the usage log as JSON.
import type { UsageEntry } from '../store/operator/list-usage.ts'
import { TIME } from './schemas.ts'

export const USAGE_ENTRY = {
  type: 'object',
  required: ['id', 'user_id', 'quota_type', 'amount', 'endpoint', 'metadata', 'created_at'],
  properties: {
    id: { type: 'string', format: 'uuid' },
    user_id: { type: 'string' },
    quota_type: { type: 'string' },
    amount: { type: 'integer', description: 'What was charged; negative where a level was lowered.' },
    endpoint: { type: ['string', 'null'], description: 'The declared route, or what the application named.' },
    metadata: { type: 'object', additionalProperties: true },
    created_at: { ...TIME, description: 'When the charge was admitted.' }
  }
} as const

export const usageEntry = ({ id, userId, quotaType, amount, endpoint, metadata, createdAt }: UsageEntry) => ({
  id,
  user_id: userId,
  quota_type: quotaType,
  amount,
  endpoint,
  metadata: JSON.parse(metadata) as Record<string, unknown>,
  created_at: createdAt.toISOString()
})
