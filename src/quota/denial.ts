// How a denial is answered, as set by options.
import { FST_QUOTA_INVALID_OPTION } from './errors.ts'
import { refuseUnknown, requireObject } from './option.ts'

export interface DenialOptions {
  /** The status of a denial: 400–499. Default: 402; 429 says that waiting helps, and clients retry it. */
  statusCode?: number
  /** Where the user can get more: `upgrade_url` in the body. Null leaves it out. Default: `/subscription`. */
  upgradeUrl?: string | null
}

/** Fail closed (503, the handler does not run) or open (let through, logged and counted) when the store cannot be reached. */
export type StoreFailure = 'closed' | 'open'

export const DEFAULT_DENIAL: Required<DenialOptions> = { statusCode: 402, upgradeUrl: '/subscription' }

export function checkDenial(path: string, denial: unknown): void {
  if (denial === undefined) return
  requireObject(path, denial, '{ statusCode: 429 }')
  refuseUnknown(path, denial as DenialOptions, ['statusCode', 'upgradeUrl'])
  const { statusCode, upgradeUrl } = denial as DenialOptions
  if (statusCode !== undefined && !(Number.isInteger(statusCode) && statusCode >= 400 && statusCode <= 499)) {
    throw new FST_QUOTA_INVALID_OPTION(
      `${path}.statusCode`,
      `must be a status code from 400 to 499, but is ${String(statusCode)}`
    )
  }
  if (upgradeUrl !== undefined && upgradeUrl !== null && typeof upgradeUrl !== 'string') {
    throw new FST_QUOTA_INVALID_OPTION(`${path}.upgradeUrl`, 'must be a URL, or null to leave it out')
  }
}

export function checkStoreFailure(path: string, value: unknown): void {
  if (value !== undefined && value !== 'closed' && value !== 'open') {
    throw new FST_QUOTA_INVALID_OPTION(path, `must be 'closed' or 'open', but is '${String(value)}'`)
  }
}

/** The nearest setting wins: route or rule, then quota type, then plugin. */
export function mergeDenial(...nearestFirst: (DenialOptions | undefined)[]): Required<DenialOptions> {
  let { statusCode, upgradeUrl } = DEFAULT_DENIAL
  for (const denial of nearestFirst.reverse()) {
    if (denial?.statusCode !== undefined) statusCode = denial.statusCode
    if (denial?.upgradeUrl !== undefined) upgradeUrl = denial.upgradeUrl
  }
  return { statusCode, upgradeUrl }
}
