// What the server prints once it listens: a token, and lines to paste into a shell that show what quotas do.
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { DEFAULT_ADMIN_PREFIX } from '../admin/authorize.ts'
import { DEFAULT_SELF_URL } from '../request/self.ts'
import type { Settings } from './settings.ts'

const DEMO_USER = 'alice'
/** A working day: the token ends up in logs. */
const DEMO_TOKEN_LIFE = '8h'
const CALL = '/l3_detect/demo/2026-01-31'
const TYPE = 'api_calls_l3_detect'

export function greeting(app: FastifyInstance, settings: Settings): string {
  const url = browsableUrl(app)
  const token = settings.isAuthEnabled ? app.jwt.sign({ sub: DEMO_USER }, { expiresIn: DEMO_TOKEN_LIFE }) : undefined
  const user = token === undefined ? `-H 'X-User-Id: ${DEMO_USER}'` : `-H 'Authorization: Bearer ${token}'`
  return [
    '',
    `fastify-quota listens on ${url}, with ${describeStore(settings)}. Its API is described at ${url}/docs`,
    ...(token === undefined ? [] : ['', `A token for the user ${DEMO_USER}, valid for ${DEMO_TOKEN_LIFE}:`, token]),
    ...describeToken(settings),
    '',
    '# A call. It is answered 202' +
      (settings.isQuotaEnabled ? ', and the X-Quota-… headers say what it cost and what is left:' : ':'),
    `curl -i -X POST ${user} ${url}${CALL}`,
    ...(settings.isQuotaEnabled ? quotaLines(url, user, settings) : []),
    ''
  ].join('\n')
}

function quotaLines(url: string, user: string, settings: Settings): string[] {
  const admin = `-H "X-Admin-Token: ${settings.isAdminTokenKept ? settings.adminToken : '$ADMIN_TOKEN'}"`
  const users = `${url}${DEFAULT_ADMIN_PREFIX}/users/${DEMO_USER}`
  const status = `curl -s -o /dev/null -w '%{http_code}' -X POST ${user} ${url}${CALL}`
  return [
    '',
    `# What ${DEMO_USER} has left, as ${DEMO_USER} sees it:`,
    `curl ${user} ${url}${DEFAULT_SELF_URL}`,
    '',
    `# As the operator: ${DEMO_USER} may make 5 of these calls a month …`,
    `curl -X PUT ${admin} '${users}/adjust?quota_type=${TYPE}&new_limit=5'`,
    '',
    '# … so that the same call, again and again, is soon refused with 402:',
    `for i in $(seq 300); do status=$(${status}); echo "$status"; if [ "$status" != 202 ]; then break; fi; done`,
    '',
    '# What the refusal says:',
    `curl -i -X POST ${user} ${url}${CALL}`,
    '',
    '# Restore the limit, start the month afresh, and see the log of what was charged:',
    `curl -X PUT ${admin} '${users}/adjust?quota_type=${TYPE}&new_limit=200'`,
    `curl -X POST ${admin} '${users}/reset?quota_type=${TYPE}'`,
    `curl ${admin} '${url}${DEFAULT_ADMIN_PREFIX}/usage-logs?user_id=${DEMO_USER}&limit=3'`
  ]
}

/** Only a token that was made here is printed; an operator's own stays out of the logs. */
function describeToken({ isQuotaEnabled, isAdminTokenKept, adminToken, connection }: Settings): string[] {
  if (!isQuotaEnabled) return []
  if (isAdminTokenKept && typeof connection !== 'string')
    return ['', `The admin token, made on the first start and kept in ${connection.dataDir}:`, adminToken as string]
  return ['', "The lines below with $ADMIN_TOKEN need it in your shell's environment."]
}

function describeStore({ isQuotaEnabled, connection }: Settings): string {
  if (!isQuotaEnabled) return 'ENABLE_QUOTA=false: nothing is metered'
  return typeof connection === 'string'
    ? 'the PostgreSQL database of DATABASE_URL'
    : `the embedded database in ${connection.dataDir} (one process; for production set DATABASE_URL)`
}

/** A wildcard address is reached through the loopback one. */
function browsableUrl(app: FastifyInstance): string {
  const { address, family, port } = app.addresses()[0] as AddressInfo
  const reachable = address === '0.0.0.0' ? '127.0.0.1' : address === '::' ? '::1' : address
  return `http://${family === 'IPv6' ? `[${reachable}]` : reachable}:${port}`
}
