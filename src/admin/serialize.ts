// How an answer is written by its schema. It is compiled for the first answer: for all routes at once it is most of what a start would take.
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
