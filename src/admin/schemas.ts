// The parts of the admin routes' schemas that are the same in several.

export const USER_PARAMS = {
  type: 'object',
  required: ['userId'],
  properties: {
    userId: { type: 'string', description: 'The user id, percent-encoded: 1–255 characters, no control characters.' }
  }
} as const

export const QUOTA_TYPE_FIELD = { type: 'string', description: "A quota type's key." } as const
export const REASON_FIELD = {
  type: 'string',
  minLength: 1,
  maxLength: 1000,
  description: 'Why; for the audit log.'
} as const

/** A JSON body may be left out where everything may stand in the query. */
export const optionalBody = (properties: Record<string, unknown>) =>
  ({ type: ['object', 'null'], additionalProperties: false, properties }) as const
