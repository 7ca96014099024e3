// Which rule a request falls under, by its declared route: decided once per route, and checked for all of them at boot.
import type { FastifyInstance, FastifyRequest } from 'fastify'
import {
  FST_QUOTA_ALREADY_REGISTERED,
  FST_QUOTA_INVALID_OPTION,
  FST_QUOTA_ROUTE_OUT_OF_REACH,
  FST_QUOTA_RULE_WITHOUT_ROUTE
} from '../quota/errors.ts'
import { refuseUnknown, requireObject } from '../quota/option.ts'
import { bySpecificity, clashes, describePattern, matches, type Pattern, readPattern } from '../quota/pattern.ts'
import { type Metering, type RouteQuota, type Rule, readMetering } from '../quota/rule.ts'
import { type DeclaredRoute, declaredRoutes, type RouteContext, type Scope } from './declared-routes.ts'
import { AS_WRITTEN, type Spell } from './spelling.ts'

export type RequestMetering = Metering<FastifyRequest>

/** A route's declared url, and what a request to it costs. */
export interface Tariff {
  url: string
  metering: RequestMetering
}

/** A route, and what it costs. */
export interface MeteredRoute {
  method: string
  url: string
  /** Undefined: not metered. */
  metering: RequestMetering | undefined
  /** Somebody wrote `false`: it is not metered on purpose. */
  isExempt: boolean
}

interface PatternRule {
  path: string
  /** As the router reads it. */
  pattern: Pattern
  /** As it was written, for messages. */
  described: string
  metering: RequestMetering | undefined
}

/** Set on a scope that has a registration, and so inherited, by prototype, by those below it; the same for every copy of this package. */
const GUARDED = Symbol.for('fastify-quota.guarded')

/** The hooks of a registration reach every route of its scope and of those below, even of those that were opened before it. */
export function markGuarded(app: FastifyInstance, matcher: RouteMatcher): void {
  Object.defineProperty(app, GUARDED, { value: matcher })
}

/** Of the registrations that guard a route of this scope. Their hooks do not tell: telemetry wraps the hooks of all plugins in its own. */
function matchersOf(scope: Scope): RouteMatcher[] {
  const matchers: RouteMatcher[] = []
  for (let at: object | null = scope; at !== null; at = Object.getPrototypeOf(at))
    if (Object.hasOwn(at, GUARDED)) matchers.push((at as { [GUARDED]: RouteMatcher })[GUARDED])
  return matchers
}

const isBelow = (scope: Scope, app: FastifyInstance): boolean =>
  scope === app || Object.prototype.isPrototypeOf.call(app, scope)

/** What is known of a route that is not metered. */
const EXEMPT = Symbol('exempt')

export class RouteMatcher {
  readonly #rules: PatternRule[]
  readonly #spell: Spell
  /** `routeOptions.config` is one stable object per route, shared by all its methods. */
  readonly #known = new WeakMap<object, Map<string, Tariff | typeof EXEMPT>>()

  constructor(rules: readonly Rule<FastifyRequest>[], spell = AS_WRITTEN) {
    this.#spell = spell
    this.#rules = rules.map((rule, i) => readRule(rule, i, spell))
    refuseClashes(this.#rules)
    this.#rules.sort((a, b) => bySpecificity(a.pattern, b.pattern))
  }

  /** Undefined: not metered. */
  match(config: { quota?: unknown }, method: string, url: string, prefix: string): Tariff | undefined {
    const known = this.#known.get(config)?.get(method)
    if (known !== undefined) return known === EXEMPT ? undefined : known
    const metering = this.#read(config.quota as RouteQuota<FastifyRequest> | undefined, method, url, prefix)
    const tariff = metering && { url, metering }
    const methods = this.#known.get(config) ?? new Map<string, Tariff | typeof EXEMPT>()
    this.#known.set(config, methods.set(method, tariff ?? EXEMPT))
    return tariff
  }

  /**
   * Once the application is ready: every rule must match a route that the registration on `app` reaches, and every `config.quota` must be
   * within reach of some registration. Returns every route in reach, with what it costs; `metered` is called with each that costs something.
   */
  verify(app: FastifyInstance, metered: (context: RouteContext) => void): MeteredRoute[] {
    const all = declaredRoutes(app)
    const guarded = all.filter(route => isBelow(route.scope, app))
    const missed = all.find(route => isMeteredByRoute(route) && matchersOf(route.scope).length === 0)
    if (missed) throw new FST_QUOTA_ROUTE_OUT_OF_REACH(`${missed.method} ${missed.url}`)
    // A scope had a registration of its own before this one was made in a scope around it.
    const twice = guarded.find(isMeteredTwice)
    if (twice)
      throw new FST_QUOTA_ALREADY_REGISTERED(
        `Two registrations of fastify-quota, one around the other, would both charge ${twice.method} ${twice.url}`
      )
    for (const rule of this.#rules) {
      if (!guarded.some(({ method, url, scope: { prefix } }) => this.#covers(rule, method, url, prefix))) {
        const near = hint(rule.pattern, guarded, this.#spell)
        throw new FST_QUOTA_RULE_WITHOUT_ROUTE(`${rule.path} (${rule.described})`, near)
      }
    }
    for (const { method, url, scope, config, context } of guarded)
      if (this.match(config, method, url, scope.prefix) !== undefined) metered(context)
    const once = guarded.filter(({ isRepeated }) => !isRepeated)
    return once.map(({ method, url, scope: { prefix }, config }) => ({
      method,
      url,
      metering: this.match(config, method, url, prefix)?.metering,
      isExempt: this.#isExempt(config.quota, method, url, prefix)
    }))
  }

  #isExempt(written: unknown, method: string, url: string, prefix: string): boolean {
    if (written !== undefined) return written === false
    const rule = this.#rules.find(rule => this.#covers(rule, method, url, prefix))
    return rule !== undefined && rule.metering === undefined
  }

  #read(
    written: RouteQuota<FastifyRequest> | undefined,
    method: string,
    url: string,
    prefix: string
  ): RequestMetering | undefined {
    if (written !== undefined) return readMetering(`config.quota of ${method} ${url}`, written)
    return this.#rules.find(rule => this.#covers(rule, method, url, prefix))?.metering
  }

  #covers({ pattern }: PatternRule, method: string, url: string, prefix: string): boolean {
    return matches(pattern, method, this.#spell(url), this.#spell(prefix))
  }
}

const isMeteredByRoute = ({ config }: DeclaredRoute): boolean => config.quota !== undefined && config.quota !== false

const isMeteredTwice = ({ config, method, url, scope }: DeclaredRoute): boolean =>
  matchersOf(scope).filter(matcher => matcher.match(config, method, url, scope.prefix) !== undefined).length > 1

function readRule(rule: Rule<FastifyRequest>, i: number, spell: Spell): PatternRule {
  const path = `rules[${i}]`
  requireObject(path, rule, "{ method: 'POST', url: '/process/:id', quota: 'api_calls' }")
  refuseUnknown(path, rule, ['method', 'url', 'quota', 'amount', 'charge', 'denial', 'storeFailure'])
  const { method, url, ...written } = rule
  if (written.quota === undefined)
    throw new FST_QUOTA_INVALID_OPTION(`${path}.quota`, "is missing; name a quota type, or false for 'not metered'")
  if (written.quota === false) refuseBesideFalse(path, written)
  const metering =
    written.quota === false ? undefined : readMetering<FastifyRequest>(path, written as RouteQuota<FastifyRequest>)
  const at = method === undefined ? { url } : { method, url }
  const described = describePattern(readPattern(path, at))
  return { path, pattern: readPattern(path, { ...at, url: spell(url) }), described, metering }
}

/** Whoever writes a cost means it to be charged. */
function refuseBesideFalse(path: string, { quota: _, ...others }: Omit<Rule<FastifyRequest>, 'method' | 'url'>): void {
  const fields = Object.entries(others).flatMap(([field, value]) => (value === undefined ? [] : field))
  if (fields.length > 0)
    throw new FST_QUOTA_INVALID_OPTION(
      path,
      `has ${fields.join(', ')} beside quota: false, which charges nothing; leave out one or the other`
    )
}

function refuseClashes(rules: readonly PatternRule[]): void {
  rules.forEach((rule, i) => {
    const other = rules.slice(0, i).find(earlier => clashes(earlier.pattern, rule.pattern))
    if (other)
      throw new FST_QUOTA_INVALID_OPTION(
        rule.path,
        `claims the same requests as ${other.path} (${rule.described}); write one rule with several charges`
      )
  })
}

/** What the rule's author probably meant. */
function hint(pattern: Pattern, guarded: readonly { method: string; url: string }[], spell: Spell): string {
  const shape = (url: string) => url.replace(/:[^/]+/g, ':')
  const isNear = (url: string) => shape(url) === shape(pattern.base) || url.endsWith(pattern.base)
  const near = guarded.filter(route => isNear(spell(route.url)))
  const list = [
    ...new Set((near.length > 0 ? near : guarded).filter(r => r.method !== 'HEAD').map(r => `${r.method} ${r.url}`))
  ]
  if (list.length === 0) return 'No routes are declared below this registration.'
  return `Write a url as the route was declared, prefix included. ${near.length > 0 ? 'Perhaps' : 'Declared routes'}: ${list.slice(0, 5).join(', ')}${list.length > 5 ? ' …' : ''}`
}
