// What a rule is: which route costs what; the forms in which it may be written, and the one that they are read into.
import { isAmount, shown } from './amount.ts'
import { checkDenial, checkStoreFailure, type DenialOptions, type StoreFailure } from './denial.ts'
import { FST_QUOTA_INVALID_OPTION } from './errors.ts'
import { refuseUnknown, requireObject } from './option.ts'
import { type ChargedStatus, isSuccess } from './outcome.ts'

/**
 * The application's quota types, for the compiler: merge them into this, and every name is checked.
 * @example declare module 'fastify-quota' { interface QuotaTypes { api_calls: true } }
 */
// biome-ignore lint/suspicious/noEmptyInterface: filled by the application, through declaration merging
export interface QuotaTypes {}

/** A quota type's key: any text, until the application declares its own in `QuotaTypes`. */
export type QuotaTypeKey = keyof QuotaTypes extends never ? string : Extract<keyof QuotaTypes, string>

/**
 * What a request costs: a whole number, or a function of the request; where that rejects with FST_QUOTA_STORE, as `app.quota` may,
 * `storeFailure` decides. Default: 1.
 */
export type ChargeAmount<Request> = number | ((request: Request) => number | Promise<number>)

/** One quota type that a request is charged to. */
export interface Charge<Request> {
  type: QuotaTypeKey
  amount?: ChargeAmount<Request>
}

export interface ChargeOptions {
  /** Which statuses are charged. Default: 2xx. */
  charge?: ChargedStatus
  /** How a denial is answered here. */
  denial?: DenialOptions
  /** What happens here when the store cannot be reached. */
  storeFailure?: StoreFailure
}

/** One type, or several that are charged together or not at all. */
export type Charges<Request> = QuotaTypeKey | Charge<Request> | readonly (QuotaTypeKey | Charge<Request>)[]

/** `config.quota` of a route. `false`: never metered, whatever the rules say. */
export type RouteQuota<Request> =
  | false
  | QuotaTypeKey
  | readonly (QuotaTypeKey | Charge<Request>)[]
  | (Charge<Request> & ChargeOptions)
  | ({ quota: Charges<Request>; amount?: ChargeAmount<Request> } & ChargeOptions)

/** One entry of the option `rules`. */
export interface Rule<Request> extends ChargeOptions {
  /** One or several; a rule for GET covers HEAD. Default: every method but OPTIONS, which browsers send without credentials. */
  method?: string | readonly string[]
  /** The route as declared, prefix included (`/l3_detect/:patient/:date`); or, ending in `/*`, everything below, including a prefix's own slash. */
  url: string
  /** What it costs; `false` exempts what it matches. */
  quota: Charges<Request> | false
  /** For a `quota` that names one type. Default: 1. */
  amount?: ChargeAmount<Request>
}

/** A rule once it is read: what the guard works with. */
export interface Metering<Request> {
  /** Where it was written, for messages: `rules[0]`, `config.quota`. */
  source: string
  charges: readonly Required<Charge<Request>>[]
  isCharged: ChargedStatus
  denial: DenialOptions | undefined
  storeFailure: StoreFailure | undefined
}

const OPTION_FIELDS = ['charge', 'denial', 'storeFailure']

/** Reads any written form; `undefined` is "exempt". Throws with the path of what is wrong. */
export function readMetering<Request>(path: string, written: RouteQuota<Request>): Metering<Request> | undefined {
  if (written === false) return undefined
  const isPlain = typeof written === 'string' || Array.isArray(written)
  if (!isPlain) requireObject(path, written, "{ type: 'api_calls', amount: 1 }, a type's key, or false")
  const options = (isPlain ? { quota: written } : written) as ChargeOptions & {
    quota?: Charges<Request>
    type?: string
    amount?: ChargeAmount<Request>
  }
  refuseUnknown(
    path,
    options,
    options.quota === undefined ? ['type', 'amount', ...OPTION_FIELDS] : ['quota', 'amount', ...OPTION_FIELDS]
  )
  const { amount, quota = { type: options.type, ...(amount === undefined ? {} : { amount }) } as Charge<Request> } =
    options
  if (options.charge !== undefined && typeof options.charge !== 'function')
    throw new FST_QUOTA_INVALID_OPTION(`${path}.charge`, 'must be a function (statusCode) => boolean')
  checkDenial(`${path}.denial`, options.denial)
  checkStoreFailure(`${path}.storeFailure`, options.storeFailure)
  if (amount !== undefined) checkAmount(`${path}.amount`, amount)
  if (amount !== undefined && Array.isArray(quota) && quota.length > 1)
    throw new FST_QUOTA_INVALID_OPTION(
      `${path}.amount`,
      'applies to a single type; with several, write { type, amount } for each'
    )
  return {
    source: path,
    charges: readCharges(isPlain || options.quota === undefined ? path : `${path}.quota`, quota, amount),
    isCharged: options.charge ?? isSuccess,
    denial: options.denial,
    storeFailure: options.storeFailure
  }
}

function readCharges<Request>(
  path: string,
  quota: Charges<Request>,
  amount: ChargeAmount<Request> | undefined
): Required<Charge<Request>>[] {
  const list = (Array.isArray(quota) ? quota : [quota]) as (string | Charge<Request>)[]
  if (list.length === 0) throw new FST_QUOTA_INVALID_OPTION(path, 'names no quota type; write false for "not metered"')
  const charges = list.map((item, i) => readCharge(Array.isArray(quota) ? `${path}[${i}]` : path, item, amount))
  const twice = charges.find((c, i) => charges.findIndex(other => other.type === c.type) !== i)
  if (twice) throw new FST_QUOTA_INVALID_OPTION(path, `names '${twice.type}' twice; add the amounts up in one charge`)
  return charges
}

function readCharge<Request>(
  path: string,
  item: string | Charge<Request>,
  fallback: ChargeAmount<Request> | undefined
): Required<Charge<Request>> {
  if (typeof item === 'string') return { type: item as QuotaTypeKey, amount: fallback ?? 1 }
  requireObject(path, item, "{ type: 'api_calls', amount: 1 }")
  const ofAll = OPTION_FIELDS.find(field => field in item)
  if (ofAll !== undefined)
    throw new FST_QUOTA_INVALID_OPTION(
      `${path}.${ofAll}`,
      `belongs beside the charges and applies to all of them: { quota: …, ${ofAll} }`
    )
  refuseUnknown(path, item, ['type', 'amount'])
  const { type, amount = fallback ?? 1 } = item
  if (typeof type !== 'string') throw new FST_QUOTA_INVALID_OPTION(`${path}.type`, 'must be the key of a quota type')
  checkAmount(`${path}.amount`, amount)
  return { type, amount }
}

function checkAmount(path: string, amount: unknown): void {
  if (typeof amount !== 'function' && !isAmount(amount)) {
    throw new FST_QUOTA_INVALID_OPTION(
      path,
      `must be a whole number from 0 to 2^53−1 or a function (request) => number, but is ${shown(amount)}`
    )
  }
}
