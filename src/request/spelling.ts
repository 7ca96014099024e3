// Which spellings of a declared URL the application's router takes for the same route: a rule must not tell them apart.
import type { FastifyInstance } from 'fastify'

/** Reduces all spellings of a URL to one. A slash at the end is left to `quota/pattern.ts`. */
export type Spell = (url: string) => string

export const AS_WRITTEN: Spell = url => url

export function spellingOf({ initialConfig }: Pick<FastifyInstance, 'initialConfig'>): Spell {
  const { routerOptions, caseSensitive, ignoreDuplicateSlashes } = initialConfig
  // Fastify shows its own defaults beside what the application has written, so a `true` in either place was written.
  const isAnySlash = routerOptions?.ignoreDuplicateSlashes === true || ignoreDuplicateSlashes === true
  const isAnyCase = (routerOptions?.caseSensitive ?? caseSensitive) === false
  const slashed: Spell = isAnySlash ? url => url.replace(/\/{2,}/g, '/') : AS_WRITTEN
  return isAnyCase ? url => slashed(url).toLowerCase() : slashed
}
