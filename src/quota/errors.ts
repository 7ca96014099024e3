// Every error this package throws: its code, its text and the HTTP status it stands for.
import { createError } from '@fastify/error'
import type { Balance } from './balance.ts'

/** An option that is not valid: its path, and what to write instead. Fails the boot. */
export const FST_QUOTA_INVALID_OPTION = createError<[path: string, remedy: string]>(
  'FST_QUOTA_INVALID_OPTION',
  'Option %s %s.',
  500
)
/** A programmer's mistake, and so 500; the admin routes, where an operator names the type, answer 404. */
export const FST_QUOTA_UNKNOWN_TYPE = createError<[key: string, where: string]>(
  'FST_QUOTA_UNKNOWN_TYPE',
  "There is no quota type '%s' (%s). Declare it under the option `quotas`, or insert it into quota_types.",
  500
)
export const FST_QUOTA_RULE_WITHOUT_ROUTE = createError<[rule: string, hint: string]>(
  'FST_QUOTA_RULE_WITHOUT_ROUTE',
  'The rule %s matches no route that this plugin guards, so it would meter nothing. %s',
  500
)
export const FST_QUOTA_ROUTE_OUT_OF_REACH = createError<[route: string]>(
  'FST_QUOTA_ROUTE_OUT_OF_REACH',
  'The route %s has a config.quota, but is outside the scope in which fastify-quota is registered, so it would not be metered. Register the plugin in that scope or above it.',
  500
)
export const FST_QUOTA_ALREADY_REGISTERED = createError<[what: string]>(
  'FST_QUOTA_ALREADY_REGISTERED',
  '%s. For a second registration, use a sibling scope.',
  500
)
export const FST_QUOTA_NO_IDENTITY = createError<[]>(
  'FST_QUOTA_NO_IDENTITY',
  'fastify-quota cannot tell who is asking: set the option jwt.secret, register @fastify/jwt yourself, or set the option identify.',
  500
)
export const FST_QUOTA_UNAUTHORIZED = createError<[why: string]>(
  'FST_QUOTA_UNAUTHORIZED',
  'Authentication is required: %s.',
  401
)
/** On the operator's routes: the token is missing or wrong, or the application's `authorize` said no. */
export const FST_QUOTA_FORBIDDEN = createError<[remedy: string]>('FST_QUOTA_FORBIDDEN', '%s', 403)
export const FST_QUOTA_TOO_MANY_ATTEMPTS = createError<[]>(
  'FST_QUOTA_TOO_MANY_ATTEMPTS',
  'Too many failed attempts from this address.',
  429
)
export const FST_QUOTA_TOO_MANY_EXPORTS = createError<[running: number]>(
  'FST_QUOTA_TOO_MANY_EXPORTS',
  '%s exports are running in this process; try again when one has finished.',
  429
)
export const FST_QUOTA_UNKNOWN_PATH = createError<[method: string]>(
  'FST_QUOTA_UNKNOWN_PATH',
  'There is no %s route at this path.',
  404
)
/** What went wrong inside is not told to the client. */
export const FST_QUOTA_FAILED = createError<[]>(
  'FST_QUOTA_FAILED',
  'Internal error; the server log has the details.',
  500
)
export const FST_QUOTA_INVALID_USER = createError<[]>(
  'FST_QUOTA_INVALID_USER',
  'A user id must be a string of 1 to 255 characters without control characters.',
  400
)
export const FST_QUOTA_INVALID_AMOUNT = createError<[what: string, value: string]>(
  'FST_QUOTA_INVALID_AMOUNT',
  '%s must be a whole number from 0 to 2^53−1, but is %s.',
  422
)
export const FST_QUOTA_INVALID_LIMIT = createError<[value: string]>(
  'FST_QUOTA_INVALID_LIMIT',
  'A limit must be a whole number from 0 to 2^53−1, or -1 for unlimited, but is %s.',
  422
)
export const FST_QUOTA_INVALID_CALL = createError<[argument: string, remedy: string]>(
  'FST_QUOTA_INVALID_CALL',
  'Argument %s %s.',
  400
)
export const FST_QUOTA_INVALID_REQUEST = createError<[field: string, remedy: string]>(
  'FST_QUOTA_INVALID_REQUEST',
  '%s %s.',
  400
)
/** `amount` threw, or returned something that is not an amount: the rule's fault, not the client's. */
export const FST_QUOTA_AMOUNT_FUNCTION = createError<[type: string, what: string, cause?: { cause: unknown }]>(
  'FST_QUOTA_AMOUNT_FUNCTION',
  "The amount function of quota type '%s' %s; nothing was charged. It runs before the request body is read.",
  500
)
export const FST_QUOTA_KIND_MISMATCH = createError<[type: string, kind: string, remedy: string]>(
  'FST_QUOTA_KIND_MISMATCH',
  "Quota type '%s' is a %s: %s.",
  409
)
export const FST_QUOTA_KIND_CHANGED = createError<[type: string, was: string, is: string]>(
  'FST_QUOTA_KIND_CHANGED',
  "Quota type '%s' is stored as a %s but declared as a %s. Its usage logs rely on the stored kind; declare the other one under a new key.",
  500
)
export const FST_QUOTA_UNKNOWN_USER = createError<[]>(
  'FST_QUOTA_UNKNOWN_USER',
  'There is no such user: this id was never charged, or was deleted.',
  404
)
export const FST_QUOTA_IDEMPOTENCY_MISMATCH = createError<[]>(
  'FST_QUOTA_IDEMPOTENCY_MISMATCH',
  'This idempotency key was already used for a different charge of this user. Use a new key for a new charge.',
  422
)
export const FST_QUOTA_NOT_RESERVED = createError<[type: string]>(
  'FST_QUOTA_NOT_RESERVED',
  "Nothing of quota type '%s' is reserved here; name a type that the rule or the reservation charges.",
  500
)
export const FST_QUOTA_SETTLED = createError<[what: string]>(
  'FST_QUOTA_SETTLED',
  'The reservation has already been %s.',
  409
)
export const FST_QUOTA_CONNECTION = createError<[remedy: string, cause?: { cause: unknown }]>(
  'FST_QUOTA_CONNECTION',
  'Option connection %s.',
  500
)
export const FST_QUOTA_UNREACHABLE = createError<[what: string, cause?: { cause: unknown }]>(
  'FST_QUOTA_UNREACHABLE',
  'The quota database could not be reached: %s. Check DATABASE_URL or the option connection, and that the server is up.',
  503
)
export const FST_QUOTA_SCHEMA = createError<[what: string, remedy: string]>(
  'FST_QUOTA_SCHEMA',
  'The quota tables are not as this version needs them: %s. %s.',
  500
)
export const FST_QUOTA_DIRECTORY_IN_USE = createError<[dir: string, pid: string]>(
  'FST_QUOTA_DIRECTORY_IN_USE',
  'The embedded database in %s is open in process %s, and only one process can use it. Stop that process, choose another directory, or use PostgreSQL for several processes.',
  500
)
export const FST_QUOTA_DIRECTORY_UNREADABLE = createError<[dir: string, why: string, cause?: { cause: unknown }]>(
  'FST_QUOTA_DIRECTORY_UNREADABLE',
  'The embedded database in %s cannot be opened: %s. Restore the directory from a copy, or move it away to start with a new one.',
  500
)
export const FST_QUOTA_CALENDAR = createError<[what: string, why: string]>(
  'FST_QUOTA_CALENDAR',
  "This user's row in quota_users has the %s, which is %s. Correct it there.",
  500
)
/** The store did not answer, or refused: the case that `storeFailure` decides. */
export const FST_QUOTA_STORE = createError<[what: string, cause?: { cause: unknown }]>(
  'FST_QUOTA_STORE',
  'The quota store failed: %s.',
  503
)

/** A table of the application refers to the user, or the application has a trigger of its own. */
export const FST_QUOTA_CHANGE_REFUSED = createError<[state: string, cause?: { cause: unknown }]>(
  'FST_QUOTA_CHANGE_REFUSED',
  'A constraint or trigger in the database rejects this change (SQLSTATE %s), and would again; nothing was changed. The server log has its message.',
  409
)

/** One charge that does not fit. */
export interface Violation extends Balance {
  /** What the charge needed. */
  required: number
  /** Seconds until the period ends, by the database's clock; null: waiting does not help. */
  retryAfter: number | null
}

const Exceeded = createError<[type: string, required: number, remaining: number]>(
  'FST_QUOTA_EXCEEDED',
  "The quota '%s' does not allow this: %s needed, %s left.",
  402
)

/** A charge does not fit; nothing was charged. `violations` has every quota that said no. */
export class FST_QUOTA_EXCEEDED extends Exceeded {
  readonly violations: readonly Violation[]

  constructor(violations: readonly Violation[]) {
    const [first] = violations as [Violation]
    // Unlimited ends where JavaScript's whole numbers do.
    const { limit, used, reserved } = first
    super(first.type, first.required, limit < 0 ? Number.MAX_SAFE_INTEGER - used - reserved : first.remaining)
    this.violations = violations
  }
}
