// Conditions that appear in a statement only where their value is given, so that each combination is planned for itself.

type Value = string | number | null

/** A condition with a `?` for each of its values; left out when it has values and the first is undefined. */
export type Condition = readonly [text: string, ...values: (Value | undefined)[]]

export interface Where {
  /** `WHERE …`, or nothing. */
  text: string
  /** What `$1`, `$2` … stand for. */
  values: Value[]
}

/** A `$1 IS NULL OR …` for each filter would share one plan among them all, and that plan reads the whole table. */
export function where(conditions: readonly Condition[], first: readonly Value[] = []): Where {
  const values = [...first]
  const parts = conditions
    .filter(([, ...given]) => given.length === 0 || given[0] !== undefined)
    .map(([text, ...given]) => {
      let i = 0
      return text.replace(/\?/g, () => {
        values.push(given[i++] as Value)
        return `$${values.length}`
      })
    })
  return { text: parts.length === 0 ? '' : `WHERE ${parts.join(' AND ')}`, values }
}
