// What the admin routes' schemas let through: nothing is coerced, and nothing is dropped.
import buildValidatorFactory from '@fastify/ajv-compiler'
import type { FastifySchema, FastifySchemaCompiler } from 'fastify'

type Compiler = FastifySchemaCompiler<FastifySchema>
type Validate = ReturnType<Compiler>

const AS_IT_IS = { coerceTypes: false, removeAdditional: false, allErrors: false, verbose: true } as const

/** Fastify's own validator turns `limit: null` into 0 and drops what it does not know: unacceptable with money. */
export function strictValidator(): Compiler {
  let compile: Compiler | undefined
  return route => {
    const schema = asSent(route.schema as ObjectSchema, route.httpPart)
    // Compiled for the first request, as in serialize.ts. The errors are a property of the function.
    let check: Validate | undefined
    const validate: Validate = (data: unknown) => {
      compile ??= buildValidatorFactory()({}, { customOptions: AS_IT_IS })
      check ??= compile({ ...route, schema })
      const isRight = check(data)
      validate.errors = check.errors ?? null
      return isRight
    }
    return validate
  }
}

interface ObjectSchema {
  properties?: Readonly<Record<string, { type?: unknown; description?: string }>>
}

/**
 * The schemas say what is meant, for OpenAPI; this says what may arrive. Everything in a query is text, which `input.ts` reads, digits
 * only; and for a number in a body it tells itself whether it is malformed (400) or makes no sense (422).
 */
function asSent(schema: ObjectSchema, httpPart: string | undefined): object {
  const types = httpPart === 'querystring' ? () => 'string' : (type: unknown) => (type === 'integer' ? 'number' : type)
  const properties = Object.entries(schema.properties ?? {}).map(([name, { type, description }]) => [
    name,
    { type: types(type), description }
  ])
  return { ...schema, properties: Object.fromEntries(properties) }
}
