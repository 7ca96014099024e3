// Arrays in PostgreSQL's text form, `$1::text::text[]`, which every driver sends and returns alike.

/** The value of a `$n::text::text[]`. */
export const textArray = (texts: readonly (string | null)[]): string => `{${texts.map(quoted).join()}}`

/** The value of a `$n::text::int[]` or `$n::text::bigint[]`. */
export const intArray = (numbers: readonly number[]): string => `{${numbers.join()}}`

/** The same, where some may be missing. */
export const intOrNullArray = (numbers: readonly (number | null)[]): string =>
  `{${numbers.map(number => number ?? 'NULL').join()}}`

/** The value of a `$n::text::timestamptz[]`. */
export const instantArray = (instants: readonly (Date | null)[]): string =>
  `{${instants.map(at => at?.toISOString() ?? 'NULL').join(',')}}`

/** The value of a `$n::text::uuid[]`. */
export const uuidArray = (ids: readonly string[]): string => `{${ids.join(',')}}`

/** The numbers in an array's `…::text`; none where that is null. */
export const numbersOf = (array: string | null): (number | null)[] =>
  array === null ? [] : JSON.parse(`[${array.slice(1, -1).replaceAll('NULL', 'null')}]`)

function quoted(text: string | null): string {
  if (text === null) return 'NULL'
  return `"${NEEDS_ESCAPE.test(text) ? text.replace(/["\\]/g, '\\$&') : text}"`
}

const NEEDS_ESCAPE = /["\\]/
