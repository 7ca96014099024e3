// What a quota type is: a named allowance, as an application declares it and as the table keeps it.
import { isLimit, shown } from './amount.ts'
import { checkDenial, type DenialOptions } from './denial.ts'
import { FST_QUOTA_INVALID_OPTION } from './errors.ts'
import { refuseUnknown } from './option.ts'
import { isPeriodUnit, PERIOD_UNITS, type PeriodUnit } from './period.ts'

/** `flow` counts events and starts again each period; `level` goes up and down and never resets. */
export type QuotaKind = 'flow' | 'level'

/** One entry of the option `quotas`. */
export interface QuotaDeclaration {
  /** What people call it; without control characters, like `unit`. Default: its key. */
  name?: string
  /** A sentence for the operator. */
  description?: string
  /** The base unit an amount counts: `call`, `byte`, `token` … Default: `call`. */
  unit?: string
  /** The most a new user may use: a whole number, 0 … 2^53−1, or −1 for unlimited. */
  limit: number
  /** `flow` (default) starts again each period; `level` goes up and down and never resets. */
  kind?: QuotaKind
  /** When a flow starts again: `hour`, `day`, `week` (ISO), `month` (default), `year` or `never`. Not for levels. */
  period?: PeriodUnit
  /** How a denial of this type is answered on a route; a rule or a route may say otherwise. Calls of `app.quota` reject with 402 in any case. */
  denial?: DenialOptions
}

/** A quota type as the table keeps it. */
export interface QuotaType {
  id: number
  key: string
  name: string
  description: string | null
  unit: string
  kind: QuotaKind
  period: PeriodUnit
  defaultLimit: number
  isActive: boolean
  createdAt: Date
  updatedAt: Date
}

/** What a type is unless it is declared otherwise; a level has no period. The columns of the table have the same defaults. */
export const TYPE_DEFAULTS = { unit: 'call', kind: 'flow', period: 'month' } as const

const KEY = /^[a-z][a-z0-9_]{0,99}$/
const DECLARATION_FIELDS = ['name', 'description', 'unit', 'limit', 'kind', 'period', 'denial']

export const isTypeKey = (value: unknown): value is string => typeof value === 'string' && KEY.test(value)

/** A report prints names and units on a terminal, which would obey control characters. */
export const hasControlCharacters = (text: string): boolean => /\p{Cc}/u.test(text)

/** A level never resets, whatever period its row has. */
export const periodOf = (type: Pick<QuotaType, 'kind' | 'period'>): PeriodUnit =>
  type.kind === 'level' ? 'never' : type.period

/** A flow that never starts again, for as long as its row says so. */
export const isEndless = ({ kind, period }: Pick<QuotaType, 'kind' | 'period'>): boolean =>
  kind === 'flow' && period === 'never'

/** Checks one declaration, and fills in its defaults. */
export function readDeclaration(
  key: string,
  declaration: QuotaDeclaration
): Required<Omit<QuotaDeclaration, 'denial' | 'description'>> & { description: string | null } {
  const path = `quotas.${key}`
  if (!isTypeKey(key))
    throw new FST_QUOTA_INVALID_OPTION(path, 'is not a quota type key; a key must match [a-z][a-z0-9_]{0,99}')
  if (declaration === null || typeof declaration !== 'object')
    throw new FST_QUOTA_INVALID_OPTION(path, 'must be an object such as { limit: 200 }')
  refuseUnknown(path, declaration, DECLARATION_FIELDS)
  const { name = key, description = null, unit = TYPE_DEFAULTS.unit, limit, period } = declaration
  const { kind = TYPE_DEFAULTS.kind } = declaration
  for (const [field, value] of Object.entries({ name, unit })) {
    if (typeof value !== 'string' || value.trim() === '' || hasControlCharacters(value))
      throw new FST_QUOTA_INVALID_OPTION(`${path}.${field}`, 'must be a non-empty string without control characters')
  }
  if (description !== null && typeof description !== 'string')
    throw new FST_QUOTA_INVALID_OPTION(`${path}.description`, 'must be a string')
  if (!isLimit(limit))
    throw new FST_QUOTA_INVALID_OPTION(
      `${path}.limit`,
      `must be a whole number from 0 to 2^53−1, or -1 for unlimited, but is ${shown(limit)}`
    )
  if (kind !== 'flow' && kind !== 'level')
    throw new FST_QUOTA_INVALID_OPTION(`${path}.kind`, `must be 'flow' or 'level', but is '${String(kind)}'`)
  if (period !== undefined && !isPeriodUnit(period))
    throw new FST_QUOTA_INVALID_OPTION(
      `${path}.period`,
      `must be one of ${PERIOD_UNITS.join(', ')}, but is '${String(period)}'`
    )
  if (kind === 'level' && period !== undefined && period !== 'never')
    throw new FST_QUOTA_INVALID_OPTION(`${path}.period`, 'must be left out: a level never resets')
  checkDenial(`${path}.denial`, declaration.denial)
  return { name, description, unit, limit, kind, period: kind === 'level' ? 'never' : (period ?? TYPE_DEFAULTS.period) }
}
