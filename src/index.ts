// What the package exports.
export type { AdminOptions, Authorize } from './admin/authorize.ts'
export type { ChargeCallOptions } from './meter/consume.ts'
export type { AdjustOptions, ChangeOptions, Check, Meter, ResetResult } from './meter/meter.ts'
export type { Reservation, ReserveCharges, ReserveOptions } from './meter/reserve.ts'
export type { QuotaOptions } from './options.ts'
export { type FastifyQuota, quotaPlugin, quotaPlugin as default } from './plugin.ts'
export type { Balance } from './quota/balance.ts'
export type { DenialOptions, StoreFailure } from './quota/denial.ts'
export * as errors from './quota/errors.ts'
export type { EventCounts } from './quota/events.ts'
export type { Metadata } from './quota/metadata.ts'
export type { PeriodUnit } from './quota/period.ts'
export type { QuotaDeclaration, QuotaKind } from './quota/quota-type.ts'
export type {
  Charge,
  ChargeAmount,
  ChargeOptions,
  Charges,
  QuotaTypeKey,
  QuotaTypes,
  RouteQuota,
  Rule
} from './quota/rule.ts'
export type { Identify } from './request/identify.ts'
export type { MeteredRoute } from './request/match.ts'
export type { RequestQuota, ReservedCharge } from './request/request-quota.ts'
export type { SelfOptions } from './request/self.ts'
export type { Connection } from './store/connection/connect.ts'
export type { RetentionOptions } from './upkeep/retention.ts'
