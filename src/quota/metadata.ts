// What may go into a usage log's metadata: JSON, bounded before the database sees it.

export type Metadata = Record<string, unknown>

/** Deeper JSON wedges the embedded engine (seen at 6 000 levels); nobody reads it either. */
const MAX_DEPTH = 8
const MAX_BYTES = 4096

/**
 * The metadata as it is stored. What does not fit is left out and the row says so with `truncated: true`: the charge counts
 * more than its note.
 */
export function boundMetadata(metadata: Metadata | undefined): Metadata {
  if (metadata === undefined) return {}
  const kept = prune(metadata, 1) as Metadata
  const text = JSON.stringify(kept)
  if (Buffer.byteLength(text) <= MAX_BYTES) return kept
  const small: [string, unknown][] = []
  let bytes = 2 + '"truncated":true'.length
  for (const [key, value] of Object.entries(kept)) {
    bytes += Buffer.byteLength(JSON.stringify({ [key]: value }))
    if (bytes > MAX_BYTES) break
    small.push([key, value])
  }
  return { ...Object.fromEntries(small), truncated: true }
}

/** Plain JSON, at most MAX_DEPTH deep, of characters that jsonb takes. */
function prune(value: unknown, depth: number, isJson = false): unknown {
  if (typeof value === 'string') return storable(value)
  if (typeof value === 'bigint') return value.toString()
  if (typeof value !== 'object' || value === null)
    return typeof value === 'function' || typeof value === 'symbol' ? null : value
  const json = (value as { toJSON?: unknown }).toJSON
  // Asked once, like JSON.stringify does: some give themselves back.
  if (typeof json === 'function' && !isJson) return prune(json.call(value), depth, true)
  if (depth > MAX_DEPTH) return '…'
  if (Array.isArray(value)) return value.map(item => prune(item, depth + 1))
  const entries = Object.entries(value).filter(([, item]) => item !== undefined)
  return Object.fromEntries(entries.map(([key, item]) => [storable(key), prune(item, depth + 1)]))
}

/** jsonb refuses U+0000 (SQLSTATE 22P05) and lone surrogates (22P02). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: U+0000 is what it takes out
const storable = (text: string): string => text.toWellFormed().replace(/\u0000/g, '\ufffd')
