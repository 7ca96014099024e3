// What happened to quotas, in the application's own log: info for a charge, debug for a release, warn for a denial, error for the store.
import type { FastifyBaseLogger } from 'fastify'
import type { QuotaEvent } from '../quota/events.ts'

/** One line per charge, so that a log can be searched by type. Never a path's parameters, a token or a body. */
export function logEvent(event: QuotaEvent, log: FastifyBaseLogger): void {
  const { userId: user, endpoint } = event
  switch (event.name) {
    case 'charged':
      for (const { type, amount, remaining } of event.charges)
        log.info({ user, type, amount, remaining, endpoint }, 'quota charged')
      break
    case 'amended':
      for (const { type, amount, remaining } of event.charges)
        log.info({ user, type, amount, remaining, endpoint }, 'quota charge amended to its actual cost')
      break
    case 'released':
      for (const { type, amount, remaining } of event.charges)
        log.debug({ user, type, amount, remaining, endpoint, status: event.statusCode }, 'quota released')
      break
    case 'denied':
      for (const { type, amount, remaining, limit } of event.charges)
        log.warn({ user, type, amount, remaining, limit, endpoint, status: event.statusCode }, 'quota denied')
      break
    case 'unenforced':
      log.error({ user, endpoint, err: event.error }, 'quota not enforced: the store failed, and storeFailure is open')
      break
    case 'store-failed':
      log.error({ user, endpoint, err: event.error }, 'quota store failed; the request was refused')
      break
    case 'owed':
      log.error(
        { user, endpoint, pending: event.pending, err: event.error },
        'quota settlement could not be written; it will be retried'
      )
      break
    case 'dropped':
      log.error({ user, endpoint, err: event.error }, 'quota settlement was given up')
  }
}
