// How an answer is written by its schema. Compiled for the first answer: compiling for all routes at once would be most of a start.
import buildSerializerFactory from '@fastify/fast-json-stringify-compiler'
import type { FastifySchema, FastifySerializerCompiler } from 'fastify'

export function lazySerializer(): FastifySerializerCompiler<FastifySchema> {
  const compile = buildSerializerFactory()({}, {}) as FastifySerializerCompiler<FastifySchema>
  return route => {
    let write: ReturnType<typeof compile> | undefined
    return document => {
      write ??= compile(route)
      return write(document)
    }
  }
}
