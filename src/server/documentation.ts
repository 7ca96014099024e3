// GET /docs: the API as an OpenAPI document and a page to try it on, with how each route is authenticated.
import type { FastifyInstance } from 'fastify'
import { DEFAULT_ADMIN_PREFIX } from '../admin/authorize.ts'
import type { Settings } from './settings.ts'

type Scheme = 'bearer' | 'user' | 'admin'

const SCHEMES = {
  bearer: {
    type: 'http',
    scheme: 'bearer',
    bearerFormat: 'JWT',
    description: 'HS256; `sub` is the user.'
  },
  user: {
    type: 'apiKey',
    in: 'header',
    name: 'X-User-Id',
    description: 'With ENABLE_AUTH=false: the user, unverified.'
  },
  admin: { type: 'apiKey', in: 'header', name: 'X-Admin-Token' }
} as const

/** Before the routes: it collects them as they are declared. */
export async function addDocumentation(
  app: FastifyInstance,
  { isAuthEnabled, isQuotaEnabled }: Pick<Settings, 'isAuthEnabled' | 'isQuotaEnabled'>
): Promise<void> {
  // Loaded here, and not with the package: an application that meters its own routes has no use for them.
  const [{ default: swagger }, { default: swaggerUi }] = await Promise.all([
    import('@fastify/swagger'),
    import('@fastify/swagger-ui')
  ])
  const caller: Scheme = isAuthEnabled ? 'bearer' : 'user'
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'fastify-quota',
        version: '1',
        description: isQuotaEnabled
          ? 'A metered imaging API (the imaging itself is a stand-in) with exact quotas for every user.'
          : 'An imaging API (the imaging itself is a stand-in). Nothing is metered here.'
      },
      components: {
        securitySchemes: { [caller]: SCHEMES[caller], ...(isQuotaEnabled ? { admin: SCHEMES.admin } : {}) }
      }
    },
    transform: ({ schema, url }) => ({
      schema: { ...schema, ...(isUpload(url) ? FILE : {}), security: securityOf(url, caller) },
      url
    }),
    transformObject: document => markOptionalBodies('openapiObject' in document ? document.openapiObject : {})
  })
  await app.register(swaggerUi, { routePrefix: '/docs', staticCSP: true, transformStaticCSP: overHttp })
}

/** The page is served over plain HTTP, possibly by a host other than the reader's own: there browsers would request its scripts by HTTPS, in vain. */
const overHttp = (policy: string): string => policy.replace(/\s*upgrade-insecure-requests;?/, '')

function securityOf(url: string, caller: Scheme): { [scheme: string]: [] }[] {
  if (url === '/health') return []
  // An empty scheme among others: the route also answers without one, and says less.
  if (url === `${DEFAULT_ADMIN_PREFIX}/health`) return [{ admin: [] }, {}]
  return [{ [url.startsWith(`${DEFAULT_ADMIN_PREFIX}/`) ? 'admin' : caller]: [] }]
}

/** An upload is read as it comes, and so has no schema that could validate it. */
const FILE = { consumes: ['application/octet-stream'], body: { type: 'string', format: 'binary' } } as const

const isUpload = (url: string): boolean => url.startsWith('/upload_')

interface Body {
  required?: boolean
  content?: Record<string, { schema?: { type?: string | string[] } }>
}

/** Swagger takes every body to be required; those that may be left out say so by the type null. */
function markOptionalBodies<D extends { paths?: object | undefined }>(document: D): D {
  const operations = Object.values(document.paths ?? {}).flatMap(path => Object.values(path as object))
  for (const { requestBody } of operations as { requestBody?: Body }[]) {
    const schema = requestBody?.content?.['application/json']?.schema
    if (schema?.type?.includes('null') !== true) continue
    schema.type = 'object'
    ;(requestBody as Body).required = false
  }
  return document
}
