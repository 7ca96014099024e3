// The plugin: the only file that knows every room, and wires them together.
import type { FastifyJWTOptions } from '@fastify/jwt'
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { addAdminRoutes } from './admin/admin.ts'
import { createMeter, type Meter } from './meter/meter.ts'
import { EventCounter } from './observe/event-counts.ts'
import { logEvent } from './observe/log-events.ts'
import { type QuotaOptions, readOptions } from './options.ts'
import { FST_QUOTA_ALREADY_REGISTERED, FST_QUOTA_NO_IDENTITY } from './quota/errors.ts'
import type { Emit, EventCounts, QuotaEvent } from './quota/events.ts'
import type { RouteQuota } from './quota/rule.ts'
import { DenialMemory } from './request/denial-memory.ts'
import { followHandler } from './request/follow-handler.ts'
import { addGuard } from './request/guard.ts'
import { Holds } from './request/holds.ts'
import { type Identify, identifyByJwt } from './request/identify.ts'
import type { MeteredRoute } from './request/match.ts'
import { Owed } from './request/owed.ts'
import type { RequestQuota } from './request/request-quota.ts'
import { addSelfRoute } from './request/self.ts'
import { spellingOf } from './request/spelling.ts'
import { declareTypes } from './store/catalogue/declare-types.ts'
import { TypeCatalogue } from './store/catalogue/type-catalogue.ts'
import { connect } from './store/connection/connect.ts'
import type { Database } from './store/database.ts'
import { Reservations } from './store/group/reservations.ts'
import { stillFull } from './store/group/still-full.ts'
import { DenialTally } from './upkeep/denial-tally.ts'
import { LiveReservationSet } from './upkeep/live-reservations.ts'
import { leaseOf, type OnUpkeepError, startUpkeep } from './upkeep/upkeep.ts'
import { UsageRollups } from './upkeep/usage-rollups.ts'

/** `app.quota`. */
export interface FastifyQuota extends Meter {
  /** Every route in reach with what it costs, once the application is ready. What `fastify-quota doctor` prints. */
  routes(): readonly MeteredRoute[]
  /** How often each event happened since this process started, and how many settlements still wait to be written. */
  counts(): EventCounts & { pending: number }
}

declare module 'fastify' {
  interface FastifyInstance {
    quota: FastifyQuota
  }
  interface FastifyRequest {
    /** This request's charges. On a route that is not metered there are none. */
    readonly quota: RequestQuota
  }
  interface FastifyContextConfig {
    /** What the route costs; `false`: nothing, whatever the rules say. */
    quota?: RouteQuota<FastifyRequest>
  }
}

async function register(app: FastifyInstance, written: QuotaOptions): Promise<void> {
  if (app.hasDecorator('quota'))
    throw new FST_QUOTA_ALREADY_REGISTERED(
      'This scope already has an app.quota: fastify-quota is registered here or above, and meters everything below, or another plugin uses that name'
    )
  const options = readOptions(written, spellingOf(app))
  const { identify, asksForToken } = await identity(app, options.identify, options.jwt)
  const db = await connect(options.connection, { storeTimeoutMs: options.storeTimeoutMs })
  try {
    await declareTypes(db, options.quotas)
    const types = new TypeCatalogue(db, options.storeTimeoutMs)
    await types.refresh()
    await wire(app, options, { db, types, identify, asksForToken })
  } catch (error) {
    await db.close()
    throw error
  }
}

/** For how many `reservationTtlMs` a reservation is held once its client has left: the handler may never end. */
const PATIENCE_TTLS = 5

interface Foundation {
  db: Database
  types: TypeCatalogue
  identify: Identify
  asksForToken: boolean
}

async function wire(
  app: FastifyInstance,
  options: ReturnType<typeof readOptions>,
  foundation: Foundation
): Promise<void> {
  const { db, types } = foundation
  const leaseMs = leaseOf(options.reservationTtlMs)
  const live = new LiveReservationSet(leaseMs, options)
  const store = new Reservations(db, options.storeTimeoutMs, options)
  const owed = new Owed(store.sharing)
  const denialOfType = new Map(Object.entries(options.quotas).map(([key, { denial }]) => [key, denial]))
  const denials = new DenialMemory(options.distributed ? undefined : counters => stillFull(db, counters))
  const changed = (userId?: string) => denials.forget(userId)
  const left = (error: unknown) => app.log.debug({ err: error }, 'quota reservation left to expire')
  const holds = new Holds(db, { ...options, leaseMs, changed, left })
  const counter = new EventCounter()
  const tally = new DenialTally(db, options)
  const upkeepFailed: OnUpkeepError = (err, task) =>
    app.log.error({ err, task }, 'quota upkeep failed; it will be retried')
  const rollups = new UsageRollups(db, error => upkeepFailed(error, 'add up usage'))
  const count = (event: QuotaEvent) => {
    counter.count(event)
    tally.hear(event)
  }
  const emit: Emit<FastifyBaseLogger> = (event, log) => {
    count(event)
    logEvent(event, log)
  }
  addGuard(app, {
    ...options,
    ...foundation,
    store,
    leaseMs,
    patienceMs: PATIENCE_TTLS * options.reservationTtlMs,
    live,
    owed,
    holds,
    denials,
    denialOfType,
    emit
  })
  const routes: MeteredRoute[] = []
  const counts = () => ({ ...counter.read(), pending: owed.size })
  app.decorate('quota', {
    ...createMeter({
      db,
      store,
      types,
      live,
      reserving: (...given) => holds.reserve(...given),
      leaseMs,
      count,
      changed,
      storeTimeoutMs: options.storeTimeoutMs
    }),
    routes: () => routes,
    counts
  })
  if (options.selfUrl !== undefined) addSelfRoute(app, { ...options, ...foundation, url: options.selfUrl })
  if (options.admin !== undefined)
    await addAdminRoutes(app, {
      db,
      types,
      counts,
      changed,
      flushDenials: () => tally.flush().catch(error => upkeepFailed(error, 'count denials')),
      forgetDenials: userId => tally.forget(userId),
      wantStatistics: (timeZone, days) => rollups.want(timeZone, days),
      ...options.admin
    })
  const upkeep = startUpkeep(db, { live, tally, rollups }, options, upkeepFailed)
  app.addHook('onReady', async () => {
    routes.push(...options.matcher.verify(app, followHandler))
    await requireTypes(routes, types)
  })
  app.addHook('onClose', async () => {
    const confirmed = denials.close()
    await owed.close(holds.close())
    await confirmed
    await upkeep.stop()
    await db.close()
  })
}

/** Fails the boot on a rule or a route that names a type nobody declared. */
async function requireTypes(routes: readonly MeteredRoute[], types: TypeCatalogue): Promise<void> {
  for (const { method, url, metering } of routes) {
    for (const { type } of metering?.charges ?? []) await types.get(type, `${metering?.source}, for ${method} ${url}`)
  }
}

/** What identifies users: the application's function, its @fastify/jwt, or ours. */
async function identity(
  app: FastifyInstance,
  identify: Identify | undefined,
  jwt: FastifyJWTOptions | undefined
): Promise<{ identify: Identify; asksForToken: boolean }> {
  const { namespace, jwtVerify } = (jwt ?? {}) as { namespace?: string; jwtVerify?: string }
  // Without a namespace, @fastify/jwt does not look at the other names.
  const method = namespace ? jwtVerify || `${namespace}JwtVerify` : 'jwtVerify'
  // Loaded only when it is used: with an `identify` of its own an application may not need it.
  if (jwt !== undefined && !app.hasRequestDecorator(method)) await app.register(import('@fastify/jwt'), jwt)
  if (identify !== undefined) return { identify, asksForToken: false }
  if (app.hasRequestDecorator(method)) return { identify: identifyByJwt(method), asksForToken: true }
  throw new FST_QUOTA_NO_IDENTITY()
}

/**
 * Where a reply has waited for its charge and then has a header that Node refuses, Fastify before 5.11 does not hear of the error and the process
 * ends, as it would after any asynchronous hook.
 */
const FASTIFY = '^5.11.0'

/** Meters an API: exact quotas for every user, deducted before the handler runs and charged when it succeeds. */
export const quotaPlugin = fp<QuotaOptions>(register, { name: 'fastify-quota', fastify: FASTIFY })
