// Which spellings of a declared URL the application's router takes for one route: a rule must not tell them apart.
import type { FastifyInstance } from 'fastify'

/** Gives what all spellings of a URL have in common. A slash at the end is `quota/pattern.ts`'s to judge. */
export type Spell = (url: string) => string

export const AS_WRITTEN: Spell = url => url

export function spellingOf({ initialConfig }: Pick<FastifyInstance, 'initialConfig'>): Spell {
  const { routerOptions, caseSensitive, ignoreDuplicateSlashes } = initialConfig
  // Beside what an application writes Fastify shows its own defaults: so the one that is written is the one that ignores.
  const isAnySlash = routerOptions?.ignoreDuplicateSlashes === true || ignoreDuplicateSlashes === true
  const isAnyCase = (routerOptions?.caseSensitive ?? caseSensitive) === false
  const slashed: Spell = isAnySlash ? url => url.replace(/\/{2,}/g, '/') : AS_WRITTEN
  return isAnyCase ? url => slashed(url).toLowerCase() : slashed
}
