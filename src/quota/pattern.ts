// Which rule a route falls under: matched on the route as declared, the most specific first.
import { FST_QUOTA_INVALID_OPTION } from './errors.ts'

/** The part of a rule that says where it applies. */
export interface Pattern {
  /** Upper case; undefined: every method but OPTIONS. */
  methods: readonly string[] | undefined
  /** The declared URL; for "everything below", the part before `/*`. */
  base: string
  /** Whether everything below `base` is meant. */
  below: boolean
}

export function readPattern(path: string, rule: { method?: string | readonly string[]; url: string }): Pattern {
  const { method, url } = rule
  if (typeof url !== 'string' || !(url.startsWith('/') || url === '*'))
    throw new FST_QUOTA_INVALID_OPTION(
      `${path}.url`,
      'must be a declared route such as /process/:id, or end in /* for everything below'
    )
  const methods = method === undefined ? undefined : [method].flat()
  if (methods?.length === 0 || methods?.some(m => typeof m !== 'string' || !/^[A-Za-z-]+$/.test(m)))
    throw new FST_QUOTA_INVALID_OPTION(`${path}.method`, "must be a method such as 'POST', or several in an array")
  const below = url === '*' || url.endsWith('/*')
  return {
    methods: methods?.map(m => m.toUpperCase()),
    base: below ? url.slice(0, url === '*' ? -1 : -2) : withoutSlash(url),
    below
  }
}

/** `prefix` belongs to the instance on which the route was declared. */
export const matches = (pattern: Pattern, method: string, url: string, prefix = ''): boolean =>
  matchesUrl(pattern, url, prefix) && matchesMethod(pattern.methods, method)

/** Fastify declares a prefix's `/` twice, with and without the slash, and its `*` without: its author sees one route. */
function matchesUrl({ base, below }: Pattern, url: string, prefix: string): boolean {
  if (!below) return withoutSlash(url) === base
  const isOwnSlash = url === base && withoutSlash(prefix) === base
  return url.startsWith(`${base}/`) || url === `${base}*` || isOwnSlash
}

function matchesMethod(methods: Pattern['methods'], method: string): boolean {
  if (methods === undefined) return method !== 'OPTIONS'
  return methods.includes(method) || (method === 'HEAD' && methods.includes('GET'))
}

/** Sorts the more specific pattern first: an exact URL, then the longer base, then the one that names its methods. */
export function bySpecificity(a: Pattern, b: Pattern): number {
  if (a.below !== b.below) return a.below ? 1 : -1
  if (a.below && a.base.length !== b.base.length) return b.base.length - a.base.length
  return Number(a.methods === undefined) - Number(b.methods === undefined)
}

/** Whether both would claim the same requests, with nothing to say which is meant. */
export function clashes(a: Pattern, b: Pattern): boolean {
  if (a.below !== b.below || a.base !== b.base) return false
  if (a.methods === undefined || b.methods === undefined) return a.methods === b.methods
  return [...covered(a.methods)].some(method => covered(b.methods as readonly string[]).has(method))
}

/** A rule for GET covers HEAD. */
const covered = (methods: readonly string[]) => new Set(methods.flatMap(m => (m === 'GET' ? ['GET', 'HEAD'] : [m])))

export const describePattern = ({ methods, base, below }: Pattern): string =>
  `${methods?.join('|') ?? '*'} ${below ? `${base}/*` : base}`

const withoutSlash = (url: string): string => (url.length > 1 && url.endsWith('/') ? url.slice(0, -1) : url)
